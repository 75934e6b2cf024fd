"""Documents drawn as page images."""
