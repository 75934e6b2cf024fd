"""Folders, files and globs of documents, with the texts beside them."""
