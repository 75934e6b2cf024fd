"""Font files, their coverage, and text shaped into glyphs."""
