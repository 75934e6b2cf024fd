"""Evaluation of predictions against their targets, and of two systems against each other."""
