"""Visits to cameras: found in predictions, counted, and set against sampling effort."""
