"""Camtrap DP 1.0.2: the tables of a package, its description, and what people must provide."""
