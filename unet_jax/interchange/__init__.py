"""Exports networks to the formats of other programs, and imports them; one module per format."""
