"""Fixtures of this folder."""

from pictures import _no_pictures as _no_pictures
from shared_programs import _programs_of_one_module as _programs_of_one_module
from shared_programs import _shared_programs as _shared_programs
