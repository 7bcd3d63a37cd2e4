"""Compilation of a network for a design: memory plan, command list and DRAM image."""
