"""Cycles and energy of a program: the event-exact model, and why engines stand still."""
