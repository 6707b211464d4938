"""One training loop for everything that learns."""
