"""The steps behind the verbs: build, open, verify, run."""
