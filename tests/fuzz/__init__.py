"""Fuzzing of every parser: seeded mutations of a kept corpus, in a process with bounds. ``make fuzz CASES=100000``."""
