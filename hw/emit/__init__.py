"""HLS projects, and the smallest design around one engine with its stimulus."""
