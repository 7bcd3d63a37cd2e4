"""Cycles and energy of a program: the event-exact model, and the causes of idle engines."""
