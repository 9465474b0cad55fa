"""The data sets: one module each, with a function that returns a `Dataset`."""
