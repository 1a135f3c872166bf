"""Fit what is trained: linear heads, heads with layers, and fine-tuning, data-parallel."""
