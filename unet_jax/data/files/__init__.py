"""Image and mask files: formats, names, checks."""
