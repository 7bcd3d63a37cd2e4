"""Protocol benches of single engines in cocotb."""
