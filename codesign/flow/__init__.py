"""Implementation of the verbs: build, open, verify, run and their helpers."""
