"""Predictions: scoring, rescoring, evaluation, and the model in a notebook."""
