"""The PyTorch twin and what compares it with this project."""
