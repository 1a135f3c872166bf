"""From labelled images to a bundle."""
