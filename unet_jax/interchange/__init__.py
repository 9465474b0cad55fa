"""Export of networks to formats of other programs, and import from them; one module a format."""
