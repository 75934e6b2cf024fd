"""Samples of pages, and batches of samples."""
