"""A run: its plan, its shards, and the workers that make them."""
