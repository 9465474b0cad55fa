"""Fixtures of this folder."""

from pictures import _no_pictures as _no_pictures
