"""One page about a run: learning curves, and where the errors are."""
