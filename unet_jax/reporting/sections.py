"""Sections of a report as tables and prose, for the HTML page and the Markdown page.

A section is a list of parts, which is empty if the report lacks the section's data. Prose is
Markdown: ** marks warnings, ` marks names, and names chosen by users are escaped by `in_markdown`.
Cells of tables are plain text. Each function takes the content of `report.json`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from unet_jax import is_binary
from unet_jax.core.names import in_markdown
from unet_jax.metrics.registry import METRICS, Metric, Task, headline_of

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts and numbers; None is an undefined value, and first cells name the rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    of_files: bool = False  # whether the rows have names of files or of fields
    sortable: bool = False  # whether a click on a column's head sorts the rows of a web page


Part = str | Table


def introduction(report: Record) -> str:
    """Describes the split, the checkpoint and how the metrics are averaged."""
    classes = [in_markdown(name) for name in report["classes"]]
    if is_binary(len(classes)):
        scope = (
            f"The headline Dice, IoU, precision, recall and specificity are those of the class "
            f"**{classes[1]}**, predicted with the threshold {rounded(report.get('threshold'))} on "
            f"its probability; the class {classes[0]} is in the scores per class."
        )
    else:
        scope = (
            f"Each pixel gets the most probable of {len(classes)} classes. A class that is neither "
            "in an image nor predicted there is left out of that image's metrics; the headline IoU "
            "is the pooled one."
        )
    return (
        f"The **{in_markdown(report['split'])}** split of {in_markdown(report['name'])}, "
        f"{image_count(report)}, predicted with the checkpoint "
        f"`{report.get('checkpoint', '–')}` of step {report.get('step', '–')}{_selection(report)}. "
        "Metrics are counted "
        "on each image at its native resolution and then averaged over the images; ignored pixels "
        f"count nowhere. {scope} The loss, {cell(report.get('loss'))}, is the mean over the "
        "images of each image's own loss."
    )


def image_count(report: Record) -> str:
    """Returns how many images a report is of, in words."""
    count = len(rows_of(report, "per_image"))
    return f"{count} image{'s' * (count != 1)}" + ", too few to rely on the scores" * (count == 1)


def rounded(threshold: Any) -> str:
    """Returns a threshold with at most four digits, or an en dash if there is none."""
    return "–" if threshold is None else f"{threshold:.4g}"


def _selection(report: Record) -> str:
    """Says which metric selected the model, unless it is the loss."""
    metric = report.get("selected_by") or "loss"
    pooled = "pooled " if statistic(metric) == "pooled" else ""
    return "" if metric == "loss" else f", which has the best {pooled}{label(metric)} on validation"


def notes(report: Record) -> str:
    """Lists the remarks on the data and the prediction; empty if there are none."""
    return "\n".join(f"- **Note**: {in_markdown(note)}." for note in report.get("notes", []))


def result(report: Record) -> list[Part]:
    """Tabulates mean, minimum and maximum over the images and the pooled value of each metric.

    Means and pooled values have confidence intervals, but in reports of earlier versions.
    """
    columns = {c: c for c in ("mean", "min", "max", "pooled")}
    aggregate = rows_of(report, "aggregate")
    if report.get("bootstrap"):
        interval = f"{100 * report['bootstrap']['level']:.0f} % CI of the"
        columns = {
            "mean": "mean",
            "interval": f"{interval} mean",
            "min": "min",
            "max": "max",
            "pooled": "pooled",
            "pooled_interval": f"{interval} pooled",
        }
    rows = [
        [label(m), *(dash(x) if isinstance(x := values.get(c), list) else x for c in columns)]
        for m, values in aggregate.items()
    ]
    return [
        Table(["metric", *columns.values()], rows),
        "Mean, min and max are over the images. Pooled counts the pixels of all images "
        "together. An en dash (–) stands where a value has no meaning.",
        *_undefined(report),
        *confidence(report),
    ]


def _undefined(report: Record) -> list[Part]:
    """Says of how many images each metric has no value, which its mean therefore leaves out."""
    images = rows_of(report, "per_image").values()
    counts = {
        m: sum(m in row and row[m] is None for row in images) for m in rows_of(report, "aggregate")
    }
    found = [f"{label(m)} ({count})" for m, count in counts.items() if count]
    if not images or not found:
        return []
    return [
        f"Without a value for some of the {len(images)} images, which the mean leaves out: "
        f"{', '.join(found)}."
    ]


# Share of intervals of so many normally distributed values that contain the true mean, in per cent;
# `tests/metrics/test_bootstrap.py` simulates it.
COVERAGE = {3: 75, 5: 83, 10: 89, 20: 93}


def confidence(report: Record) -> list[Part]:
    """Explains the confidence intervals; empty if the report has none."""
    settings, images = report.get("bootstrap"), len(rows_of(report, "per_image"))
    if not settings:
        return []
    if images < 2:
        return ["A confidence interval over the images needs at least two; this split has one."]
    parts: list[Part] = [
        f"CI: confidence interval over the {images} images, by the percentile bootstrap: "
        f"{settings['draws']:,} times, {images} of them are drawn with replacement (seed "
        f"{settings['seed']}), and the interval has the middle {100 * settings['level']:.0f} % of "
        "the scores of these draws. It shows how far the score depends on which images were "
        "tested. It does not include what another seed of the training would change, and it is too "
        "narrow if images resemble one another, as slices of one volume or images of one patient "
        "do."
    ]
    if images < max(COVERAGE):
        shares = ", ".join(f"{share} % with {count}" for count, share in COVERAGE.items())
        parts.append(
            f"**With only {images} images, the intervals are too narrow.** The share of such "
            f"intervals of normally distributed scores that contain the true mean is not 95 %, but "
            f"{shares} images."
        )
    return parts


def thresholds(report: Record) -> list[Part]:
    """Tabulates the metrics at the report's threshold and at those chosen by other rules."""
    rows = report.get("thresholds") or []
    if not rows:
        return []
    metrics = [name for name in rows[0] if name not in ("rule", "threshold")]
    cells = [[row["rule"], *(row[name] for name in ("threshold", *metrics))] for row in rows]
    threshold = cell(report.get("threshold"))
    note = f"Means over the images. All other tables are at the threshold {threshold}."
    if report.get("pixel_error") is not None:
        note += (
            " V^Rand and V^Info are those of the ISBI 2012 challenge: of the foreground, after "
            "thinning the borders. The challenge chooses the threshold on the images that it "
            "scores, which is optimistic; a threshold chosen on validation is not. Its pixel "
            "error, 1 - Dice pooled over all pixels at the best threshold, is "
            f"{cell(report['pixel_error'])} here."
        )
    return [Table(["rule", "threshold", *map(label, metrics)], cells), note]


def observer_comparison(report: Record) -> list[Part]:
    """Compares the model with a second human observer, on average and for each image."""
    observer = report.get("observer") or {}
    if not observer:
        return []
    means = []
    for metric, values in rows_of(observer, "aggregate").items():
        model = rows_of(report, "aggregate").get(metric, {})
        means.append([f"{label(metric)}, mean", with_interval(model), with_interval(values)])
    metric = headline(report).key
    images = []
    for name, values in sorted(rows_of(observer, "per_image").items()):
        model = rows_of(report, "per_image").get(name, {}).get(metric)
        images.append([name, model, values[metric]])
    return [
        Table(["metric", "model", "second observer"], means),
        Table([f"{label(metric)} of", "model", "second observer"], images, of_files=True),
        "A second observer labelled the same images. Both columns are scored against the labels of "
        "the first observer."
        + (" In brackets: 95 % confidence intervals." if report.get("bootstrap") else ""),
    ]


def trivial_comparison(report: Record) -> list[Part]:
    """Compares the model with a predictor that assigns every pixel to the same class."""
    trivial = report.get("trivial") or {}
    overall = {key for key, metric in METRICS.items() if metric.overall}
    rows, better, worse = [], [], []

    def compare(what: str, model: float | None, other: float | None) -> float:
        gain = math.nan if model is None or other is None else model - other
        rows.append([what, model, other, None if math.isnan(gain) else f"{gain:+.4f}"])
        return gain

    for metric, values in rows_of(trivial, "aggregate").items():
        model = rows_of(report, "aggregate").get(metric, {}).get("mean")
        gain = compare(f"{label(metric)}, mean over images", model, values.get("mean"))
        if metric in overall:
            better += [label(metric)] if gain > 0 else []
            worse += [label(metric)] if gain <= 0 else []
    for name, values in rows_of(trivial, "per_class").items():
        model = rows_of(report, "per_class").get(name, {})
        for metric in (metric for metric in values if metric in overall):
            compare(f"{label(metric)} of {name}, pooled", model.get(metric), values.get(metric))
    if not rows:
        return []
    verdict = f"The model is better than this in {', '.join(better)}. " if better else ""
    verdict += f"**The model is not better than this in {', '.join(worse)}.** " if worse else ""
    return [
        f"The trivial predictor gives every pixel the same class, here "
        f"{in_markdown(trivial['prediction'])}. "
        f"{verdict}Its recall and specificity are 0 or 1 by construction and do not count here.",
        Table(["metric", "model", "trivial", "difference"], rows),
    ]


def class_scores(report: Record) -> list[Part]:
    """Tabulates the metrics of each class, first those pooled over all pixels of the split."""
    rows, parts = rows_of(report, "per_class"), []
    means = {key for key, metric in METRICS.items() if metric.of_masks}
    for of_masks, what in (
        (False, "Pooled over all pixels of the split."),
        (True, "Means over the images, each with the metric of the class's masks in that image."),
    ):
        chosen = {
            name: {key: x for key, x in row.items() if (key in means) == of_masks}
            for name, row in rows.items()
        }
        if any(chosen.values()):
            parts += [what, _metrics_table("class", chosen)]
    return [*parts, *_one_mask_empty(report)] if parts else []


def _one_mask_empty(report: Record) -> list[Part]:
    """Tabulates the images that have a class in only one of label and prediction."""
    counts = rows_of(report, "one_mask_empty")
    if not counts:
        return []
    rows = [[name, images["prediction"], images["label"]] for name, images in counts.items()]
    return [
        "Images in which the class is only labelled (missed) or only predicted (a false alarm). "
        "The means above include them, with the value that each metric's definition states.",
        Table(["class", "only labelled", "only predicted"], rows),
    ]


def image_scores(report: Record) -> list[Part]:
    """Tabulates the metrics of each image, sorted by file name."""
    images = dict(sorted(rows_of(report, "per_image").items()))
    return [_metrics_table("image", images, of_files=True)] if images else []


def learning_curves(report: Record) -> str:
    """Explains the learning curves."""
    threshold = (
        "Validation metrics are at `eval.threshold`, or at 0.5 if one is chosen at the end. "
        if report.get("threshold") is not None
        else ""
    )
    return (
        "The training loss is computed during training, with augmentation and dropout; the "
        f"validation loss is computed without. {threshold}The dotted line marks the reported "
        "checkpoint."
    )


def meanings(report: Record) -> list[Part]:
    """Defines the metrics of the report."""
    metrics = [m for m in rows_of(report, "aggregate") if m in METRICS]
    if not metrics:
        return []
    return [
        "\n".join(
            f"- **{METRICS[m].title}**: {METRICS[m].help}{_settings(report, METRICS[m])}"
            for m in metrics
        ),
        "TP, FP, FN and TN count the true and false positive and negative pixels of a class. "
        "1 is perfect where higher is better.",
    ]


def _settings(report: Record, metric: Metric) -> str:
    """Says with which settings a metric was computed."""
    settings = report.get("settings", {})
    known = [f"`eval.{name}={settings[name]}`" for name in metric.settings if name in settings]
    return f" Here {' and '.join(known)}." if known else ""


def same_settings(metric: str, reports: Sequence[Record]) -> bool:
    """Returns whether the values of a metric in several reports have one definition."""
    names = METRICS[metric].settings if metric in METRICS else ()
    found = [[(report.get("settings") or {}).get(name) for name in names] for report in reports]
    return all(settings == found[0] for settings in found)


def provenance(report: Record) -> list[Part]:
    """Tabulates the config digest, number of parameters, device and package versions."""
    keys = ("config_digest", "parameters", "device")
    facts = {key.replace("_", " "): report.get(key) for key in keys} | (
        report.get("versions") or {}
    )
    rows = [[k, f"{v:,}" if isinstance(v, int) else str(v)] for k, v in facts.items() if v]
    return [Table(["item", "value"], rows)] if rows else []


def _metrics_table(kind: str, rows: dict[str, Record], of_files: bool = False) -> Table:
    metrics = list(dict.fromkeys(metric for values in rows.values() for metric in values))
    body = [[name, *(values.get(m) for m in metrics)] for name, values in rows.items()]
    return Table([kind, *map(label, metrics)], body, of_files, sortable=of_files)


def headline(report: Record) -> Metric:
    """Returns the metric by which images are ranked."""
    return headline_of(Task(len(report["classes"])))


def statistic(metric: str) -> str:
    """Returns the statistic to quote of a metric, "mean" or "pooled"; "mean" if it is unknown."""
    return METRICS[metric].statistic if metric in METRICS else "mean"


def rows_of(record: Record, key: str) -> dict[str, Record]:
    """Returns the entries under `key` that are tables of numbers, without any other entries."""
    return {name: row for name, row in (record.get(key) or {}).items() if isinstance(row, dict)}


def label(metric: str) -> str:
    """Returns the display name of a metric with its unit, or its key if it is unknown."""
    return METRICS[metric].title if metric in METRICS else metric


def interval_of(values: Record, kind: str = "mean") -> list[float] | None:
    """Returns a metric's confidence interval, [low, high], from its entry in `aggregate`.

    Args:
      values: the entry.
      kind: the statistic, "mean" or "pooled".

    Returns:
      The interval; None if it is undefined or the report of an earlier version.
    """
    return values.get("interval" if kind == "mean" else "pooled_interval")


def dash(interval: Sequence[float]) -> str:
    """Formats an interval as 0.8000 – 0.9000."""
    return " – ".join(map(cell, interval))


def bracketed(interval: Sequence[float] | None) -> str:
    """Formats an interval as [0.8000, 0.9000]; empty if there is none."""
    return f"[{', '.join(map(cell, interval))}]" if interval else ""


def with_interval(values: Record) -> str:
    """Formats the mean of an entry of `aggregate` with its confidence interval, if it has one."""
    return f"{cell(values.get('mean'))} {bracketed(interval_of(values))}".strip()


def cell(value: Any) -> str:
    """Formats a cell: floats with 4 decimals, from 1,000 on with 1; None as an en dash."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1f}"
