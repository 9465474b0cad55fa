"""The networks of `unet_jax` in plain PyTorch, which some exports and the benchmarks need.

Its modules import torch. `--mode=export --format=pytorch` writes a network's source into a file
that does not need this project.
"""
