"""A model as a file for use elsewhere, and the benchmark."""
