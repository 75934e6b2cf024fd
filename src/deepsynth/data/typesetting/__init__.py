"""Paragraphs and blocks set into lines and pages."""
