"""How a training step computes: loss, activation memory, vision features."""
