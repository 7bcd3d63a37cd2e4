"""Interchange with other tools: exporters, hls4ml, FINN."""
