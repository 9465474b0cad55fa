"""Fixtures of this folder."""

from pictures import _no_pictures as _no_pictures
from shared_programs import _shared_programs as _shared_programs
