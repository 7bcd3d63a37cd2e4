"""HTML pages and SVG plots as text, without a browser or plotting library."""
