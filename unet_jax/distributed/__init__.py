"""Device placement and multi-host runs; no other package uses `jax.pmap`."""
