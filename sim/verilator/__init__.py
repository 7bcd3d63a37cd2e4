"""Building the simulator and driving it."""
