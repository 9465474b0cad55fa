"""Robustness benchmarks: fuzzing of all readers, killed and interrupted runs."""
