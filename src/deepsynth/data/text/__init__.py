"""Unicode text without pixels: cleaning, line breaking, bidirectional order, scripts."""
