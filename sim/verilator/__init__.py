"""Compilation and control of Verilator simulations."""
