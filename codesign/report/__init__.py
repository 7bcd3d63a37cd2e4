"""Build report: figures labelled with their evidence, as JSON and as an HTML page."""
