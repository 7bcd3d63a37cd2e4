"""Quantizers for float models, from samples."""
