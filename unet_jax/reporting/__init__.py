"""Reports and figures from computed metrics; this package does not import jax."""
