"""The report of a build: figures with their evidence, as JSON and as a page."""
