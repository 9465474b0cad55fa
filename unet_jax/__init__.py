"""U-Net segmentation in JAX and Flax, with one launcher, published experiments and exact resume."""

IGNORED = 255  # label of pixels that are excluded from all losses and metrics
