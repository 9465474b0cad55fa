"""Fuzzing, kills and interrupts."""
