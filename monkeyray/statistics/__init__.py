"""Figures from arrays: nothing here reads a file or knows a model."""
