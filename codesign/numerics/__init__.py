"""Integers: the only place that rounds or saturates, and functions made of that."""
