"""The options of the command line by name: help pages, hints for mistakes, and the reference of the documentation."""
