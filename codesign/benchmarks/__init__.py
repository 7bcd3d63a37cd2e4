"""Benchmarks of `codesign bench`: computed figures compared with the project's goals and with other tools."""
