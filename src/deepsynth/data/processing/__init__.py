"""From pages to model inputs, and from samples to batches."""
