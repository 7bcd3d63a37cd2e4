"""The folder that a build leaves on disk: its files, and values as files."""
