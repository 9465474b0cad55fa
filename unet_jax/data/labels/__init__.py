"""Labels: what the values of masks mean."""
