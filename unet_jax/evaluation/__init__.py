"""Scoring a network on a split, and inspecting a data set."""
