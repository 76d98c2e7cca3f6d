"""A model as a file for elsewhere, and the measuring of speed."""
