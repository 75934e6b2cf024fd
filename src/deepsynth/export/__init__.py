"""Merge an adapter into its base model, and verify the result."""
