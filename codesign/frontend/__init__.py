"""Model files: readers, float reference operators, and the built-in models."""
