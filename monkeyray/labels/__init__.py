"""Labelled images from what people have: folders and manifests."""
