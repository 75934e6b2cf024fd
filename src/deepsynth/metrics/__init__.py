"""Metrics on texts."""
