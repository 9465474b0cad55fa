"""Compiling for TPUs that need not be there."""
