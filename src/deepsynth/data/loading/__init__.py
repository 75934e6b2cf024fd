"""Samples and batches: datasets, samplers, loaders and worker processes."""
