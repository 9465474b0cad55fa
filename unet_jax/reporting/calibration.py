"""The calibration section of a report."""

from unet_jax import is_binary
from unet_jax.core.names import in_markdown
from unet_jax.reporting.sections import Part, Record, cell


def section(report: Record) -> list[Part]:
    """Explains the calibration curve and its error; empty if the report has none."""
    if not is_measured(report):
        return []
    what = in_markdown(event(report))
    return [
        f"Each point is a range of predicted probability, and its height the share of the range's "
        f"pixels for which it is true that {what}. Above the dotted line the predicted "
        f"probabilities are too low, below it too high. The bars count the pixels.",
        f"The expected calibration error, {cell(report['calibration']['error'])}, is the mean "
        f"over all pixels of their range's vertical distance from that line, in 16 ranges.",
    ]


def is_measured(report: Record) -> bool:
    """Returns whether the report has an expected calibration error."""
    return (report.get("calibration") or {}).get("error") is not None


def event(report: Record) -> str:
    """Returns the event whose predicted probability is assessed."""
    classes = report["classes"]
    return (
        f"the pixel is {classes[1]}"
        if is_binary(len(classes))
        else "the most probable class is correct"
    )
