"""Compilation of designs with Verilator, and control of the simulation."""
