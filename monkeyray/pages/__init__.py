"""Reports and reviews in HTML."""
