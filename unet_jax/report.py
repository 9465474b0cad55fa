"""The numbers of an evaluation, written as files that a reader can trust.

`write_report` makes the numbers (`report.json`), a page to read (`report.md`), and pictures
(`figures/`): learning curves, calibration, some images with their errors. All are rendered before
the first one is written, and each replaces its predecessor in one move, so a failure leaves the
old report as it was.
"""

import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from unet_jax.figures import (
    Overlay,
    calibration_curve,
    learning_curves,
    overlay_figure,
    png,
)
from unet_jax.files import write_all
from unet_jax.metrics import METRICS

Record = dict[str, Any]


def write_report(
    folder: pathlib.Path,
    report: Record,
    history: list[Record],
    overlays: list[Overlay],
    stem: str = "report",
) -> None:
    """Writes `{stem}.json`, `{stem}.md` and `figures/{stem}-*.png` in `folder`.

    `report` must have `name`, `split`, `classes` and `aggregate`; the page shows what else it
    knows of, and other keys only reach the JSON. `history` holds the records of `metrics.jsonl`.
    Raises ValueError, before anything is written, if a number of the report is not finite (a
    metric without meaning is None) or if an overlay's arrays differ in size.
    """
    for complaint in _not_finite(report, "report"):
        raise ValueError(f"{complaint}; a number must be finite, and None where it has no meaning")
    curves, pictures = f"figures/{stem}-curves.png", f"figures/{stem}-overlays.png"
    calibrated = f"figures/{stem}-calibration.png"
    numbers = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    contents = {
        folder / curves: png(learning_curves(history, report.get("step"))),
        folder / pictures: png(overlay_figure(overlays, report["classes"])),
        folder / f"{stem}.json": numbers.encode(),
        folder / f"{stem}.md": _page(report, overlays, curves, pictures, calibrated).encode(),
    }
    if _is_calibrated(report):
        figure = calibration_curve(report["calibration"], _event(report))
        contents[folder / calibrated] = png(figure)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_all(contents)


def _not_finite(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is {value}"
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, (list, tuple)) else items
    for key, inner in items:
        yield from _not_finite(inner, f"{where}[{key!r}]")


def _page(
    report: Record, overlays: list[Overlay], curves: str, pictures: str, calibrated: str
) -> str:
    aggregate = _rows(report, "aggregate")
    columns = ("mean", "min", "max", "pooled")
    headline = [[_label(m), *(_cell(v.get(c)) for c in columns)] for m, v in aggregate.items()]
    images = {f"`{name}`": row for name, row in sorted(_rows(report, "per_image").items())}
    captions = [f"{row}. `{o.name}`: {o.title}" for row, o in enumerate(overlays, 1)]
    meanings = [f"- **{METRICS[m][0]}**: {METRICS[m][1]}" for m in aggregate if m in METRICS]
    sections = [
        f"# {report['name']}: {report['split']}\n\n{_introduction(report)}",
        "\n".join(f"- **Note**: {note}." for note in report.get("notes", [])),
        _section(
            "Result",
            _table(["metric", *columns], headline),
            "Mean, min and max are over the images. Pooled counts the pixels of all images "
            "together. An en dash (–) stands where a value has no meaning.",
        ),
        _section("Thresholds", *_thresholds(report)),
        _section("Beside a second observer", *_beside_observer(report)),
        _section("Beside a trivial predictor", *_beside_trivial(report)),
        _section(
            "Each class",
            _metrics_table("class", _rows(report, "per_class")),
            "Pooled over all pixels of the split.",
        ),
        _section(
            "Learning curves",
            f"![learning curves]({curves})",
            "The training loss is taken while the network learns, with whatever augmentation and "
            "dropout it has; the validation loss is taken without. The dotted line marks the "
            "reported checkpoint.",
        ),
        _section("Calibration", *_calibration(report, calibrated)),
        _section("Images", f"![images, labels and predictions]({pictures})", "\n".join(captions)),
        _section("Each image", _metrics_table("image", images)),
        _section(
            "What the metrics mean",
            "\n".join(meanings),
            "TP, FP, FN and TN count the true and false positive and negative pixels of a class. "
            "1 is perfect, except for the loss.",
        ),
        _section("Made with", _provenance(report)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(report: Record) -> str:
    classes = report["classes"]
    if len(classes) == 2:
        scope = (
            f"The headline Dice, IoU, precision, recall and specificity are those of the class "
            f"**{classes[1]}**, predicted with the threshold {report.get('threshold', '–')} on its "
            f"probability; the class {classes[0]} is in the table of each class."
        )
    else:
        scope = (
            f"Each pixel gets the most probable of {len(classes)} classes. A class that is neither "
            "in an image nor predicted there is left out of that image's metrics; the headline IoU "
            "is the pooled one."
        )
    return (
        f"The **{report['split']}** split of {report['name']}, "
        f"{len(_rows(report, 'per_image'))} images, predicted with the checkpoint "
        f"`{report.get('checkpoint', '–')}` of step {report.get('step', '–')}. Metrics are counted "
        "on each image at its native resolution and then averaged over the images; ignored pixels "
        f"count nowhere. {scope} The loss, {_cell(report.get('loss'))}, is the mean over the "
        "images of each image's own loss."
    )


def _thresholds(report: Record) -> list[str]:
    rows = report.get("thresholds") or []
    if not rows:
        return []
    metrics = [name for name in rows[0] if name not in ("rule", "threshold")]
    cells = [[r["rule"], *(_cell(r[name]) for name in ("threshold", *metrics))] for r in rows]
    note = "Means over the images. The fixed threshold makes the tables above and below."
    if "v_rand" in metrics:
        note += (
            " V^Rand and V^Info are those of the ISBI 2012 challenge: of the foreground, after "
            "thinning the borders. The challenge takes the threshold that is best on the very "
            "images it scores; an honest one was chosen on validation. Its pixel error, 1 - Dice "
            "of all pixels together at the best threshold, is "
            f"{_cell(report.get('pixel_error'))} here."
        )
    return [_table(["which threshold", "threshold", *map(_label, metrics)], cells), note]


def _is_calibrated(report: Record) -> bool:
    return (report.get("calibration") or {}).get("error") is not None


def _event(report: Record) -> str:
    classes = report["classes"]
    return f"the pixel is {classes[1]}" if len(classes) == 2 else "the most probable class is right"


def _calibration(report: Record, calibrated: str) -> list[str]:
    if not _is_calibrated(report):
        return []
    return [
        f"![calibration curve]({calibrated})",
        f"The expected calibration error, {_cell(report['calibration']['error'])}, is the mean "
        f"over all pixels of the distance between the predicted probability that "
        f"{_event(report)} and how often that is so, in 16 ranges of probability.",
    ]


def _beside_trivial(report: Record) -> list[str]:
    trivial = report.get("trivial") or {}
    rows, better, worse = [], [], []

    def compare(what: str, model: float | None, other: float | None) -> float:
        gain = math.nan if model is None or other is None else model - other
        rows.append([what, _cell(model), _cell(other), "–" if math.isnan(gain) else f"{gain:+.4f}"])
        return gain

    for metric, values in _rows(trivial, "aggregate").items():
        model = _rows(report, "aggregate").get(metric, {}).get("mean")
        gain = compare(f"{_label(metric)}, mean over images", model, values.get("mean"))
        if metric in ("dice", "iou", "pixel_accuracy"):
            better += [_label(metric)] if gain > 0 else []
            worse += [_label(metric)] if gain <= 0 else []
    for name, values in _rows(trivial, "per_class").items():
        model = _rows(report, "per_class").get(name, {})
        for metric in ("dice", "iou"):
            compare(f"{_label(metric)} of {name}, pooled", model.get(metric), values.get(metric))
    if not rows:
        return []
    verdict = f"The model is better than this in {', '.join(better)}. " if better else ""
    verdict += f"**The model is not better than this in {', '.join(worse)}.** " if worse else ""
    return [
        f"The trivial predictor gives every pixel the same answer: {trivial['prediction']}. "
        f"{verdict}Its recall and specificity are 0 or 1 by construction and decide nothing.",
        _table(["metric", "model", "trivial", "difference"], rows),
    ]


def _beside_observer(report: Record) -> list[str]:
    observer = report.get("observer") or {}
    if not observer:
        return []
    rows = []
    for metric, values in _rows(observer, "aggregate").items():
        model = _rows(report, "aggregate").get(metric, {}).get("mean")
        rows.append([f"{_label(metric)}, mean", _cell(model), _cell(values["mean"])])
    metric = "dice" if len(report["classes"]) == 2 else "mean_iou"
    for name, values in sorted(_rows(observer, "per_image").items()):
        model = _rows(report, "per_image").get(name, {}).get(metric)
        rows.append([f"`{name}`, {_label(metric)}", _cell(model), _cell(values[metric])])
    return [
        _table(["", "model", "second observer"], rows),
        "A second human labelled the same images; both columns are scored against the first.",
    ]


def _provenance(report: Record) -> str:
    keys = ("config_digest", "parameters", "device")
    facts = {key.replace("_", " "): report.get(key) for key in keys} | (
        report.get("versions") or {}
    )
    rows = [[k, f"{v:,}" if isinstance(v, int) else str(v)] for k, v in facts.items() if v]
    return _table(["what", "which"], rows)


def _section(heading: str, content: str = "", *remarks: str) -> str:
    """Returns nothing where there is no content to head."""
    return "\n\n".join(filter(None, (f"## {heading}", content, *remarks))) if content else ""


def _metrics_table(kind: str, rows: dict[str, Record]) -> str:
    metrics = list(dict.fromkeys(metric for values in rows.values() for metric in values))
    body = [[name, *(_cell(values.get(m)) for m in metrics)] for name, values in rows.items()]
    return _table([kind, *map(_label, metrics)], body)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) if rows else ""


def _rows(record: Record, key: str) -> dict[str, Record]:
    """Returns the tables of numbers under `key`, without what else may stand beside them."""
    return {name: row for name, row in (record.get(key) or {}).items() if isinstance(row, dict)}


def _label(metric: str) -> str:
    return METRICS[metric][0] if metric in METRICS else metric


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
