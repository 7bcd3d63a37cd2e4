"""Lowering of a float graph with quantizers to the integer network."""
