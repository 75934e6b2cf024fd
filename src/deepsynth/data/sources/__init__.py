"""Sources of documents: text files, images, Hugging Face datasets, Python's own documentation, and mixes."""
