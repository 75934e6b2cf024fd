"""Memory readings and FLOP counts."""
