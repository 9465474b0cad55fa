"""Reports and figures from finished numbers; no jax in here."""
