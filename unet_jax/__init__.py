"""U-Net segmentation in JAX and Flax, with one launcher, published experiments and exact resume."""

IGNORED = 255  # label of pixels that are excluded from all losses and metrics


def is_binary(count: int) -> bool:
    """Returns whether a task has one foreground class.

    Args:
      count: the number of classes, or of logits per pixel, which may be 1 for two classes.
    """
    return count <= 2
