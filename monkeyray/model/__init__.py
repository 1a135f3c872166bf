"""Backbones, heads, the engines that run them, and the bundle that holds both."""
