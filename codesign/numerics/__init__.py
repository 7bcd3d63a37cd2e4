"""Integer arithmetic, the only place that rounds or saturates, and the functions built on it."""
