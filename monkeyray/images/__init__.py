"""From a file's bytes to pixels: listing, decoding, views and boxes."""
