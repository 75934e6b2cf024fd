"""Degradations of page images, as scanners, cameras and copiers cause them."""
