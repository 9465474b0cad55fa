"""Devices and hosts: the only package that uses `jax.pmap`."""
