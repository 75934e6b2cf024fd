"""Markdown and HTML tables, parsed to blocks and written from them."""
