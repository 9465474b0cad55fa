"""The threshold between two classes: that of the config, or the one that a run chose."""

from collections.abc import Mapping

from ml_collections import ConfigDict

CHOSEN_FOR = "dice"  # metric of the chosen threshold
UNDECIDED = 0.5  # until a model has been validated


def decided_threshold(stated: float, chosen: Mapping[str, float]) -> float:
    """Returns `eval.threshold` or, if that is 0, the threshold with the best Dice on validation.

    Args:
      stated: `eval.threshold`.
      chosen: thresholds that were best on validation, by metric; empty if no model was validated.
    """
    return stated or chosen.get(CHOSEN_FOR, UNDECIDED)


def decided(config: ConfigDict, chosen: Mapping[str, float]) -> ConfigDict:
    """Returns a copy of a config with its `decided_threshold`."""
    config = config.copy_and_resolve_references()
    config.eval.threshold = decided_threshold(config.eval.threshold, chosen)
    return config
