"""Formats of documents: PDF, PAGE XML and ALTO."""
