"""One file per bench of `codesign bench`: figures that are promised beside those of today."""
