"""Pages and drawings as text, without a browser and without a plotting library."""
