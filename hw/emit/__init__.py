"""Files from components: Verilog, HLS projects, and the smallest design around one engine."""
