"""Training: the loop (start reading at `loop.py`), the step, the state and validation."""
