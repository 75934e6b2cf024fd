"""Scores of the published benchmarks, from their own files: olmOCR-bench and OmniDocBench."""
