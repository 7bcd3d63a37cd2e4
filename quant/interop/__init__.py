"""Other tools: exporters, hls4ml, FINN."""
