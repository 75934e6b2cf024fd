"""Files, images, HTML pages and worker processes, each handled in one place."""
