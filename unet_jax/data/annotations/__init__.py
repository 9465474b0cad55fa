"""Annotations of other tools (polygons, RLE, masks of objects), converted to masks of class ids."""
