"""U-Net segmentation in JAX and Flax: one launcher, published experiments, exact resume."""

IGNORED = 255  # the label of pixels that count in no loss and no metric
