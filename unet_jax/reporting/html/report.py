"""The HTML report of a run, `report.html`: a single file that needs no network."""

from collections.abc import Mapping, Sequence
from typing import Any

from configs import base
from unet_jax import is_binary
from unet_jax.core.config import flatten
from unet_jax.core.names import in_markdown
from unet_jax.data.dataset import PARTS
from unet_jax.metrics.registry import by_prominence
from unet_jax.reporting import calibration, charts, origin, sections
from unet_jax.reporting.html import page
from unet_jax.reporting.html.page import Cell, Charts, Details, Overlays, PanelRow, Part
from unet_jax.reporting.overlays import FALSE_POSITIVE, Overlay, legend, panels
from unet_jax.reporting.sections import Record, Table, label, rows_of

LONGEST_SIDE = 640  # largest side of an image on the page, in pixels


def render(
    report: Record,
    history: Sequence[Record],
    overlays: Sequence[Overlay],
    config: Record,
    splits: Mapping[str, Any],
    run: str,
) -> str:
    """Renders the HTML page of a report.

    Sections without data are omitted.

    Args:
      report: the content of `report.json`.
      history: the records of `metrics.jsonl`.
      overlays: images with labels and predictions; see `panels` for what is drawn.
      config: the fields with which the run was evaluated.
      splits: the content of `split.json`.
      run: the run's name, which is the heading.

    Returns:
      The page as HTML.
    """
    return page.render(
        "report.html",
        f"{run}: {report['split']}",
        {
            "Images": _images(overlays, report["classes"]),
            "Learning curves": _learning_curves(report, history),
            "Scores per image": [p for p in sections.image_scores(report) if isinstance(p, Table)],
            "Thresholds": sections.thresholds(report),
            "Comparison with a second observer": sections.observer_comparison(report),
            "Comparison with a trivial predictor": sections.trivial_comparison(report),
            "Scores per class": sections.class_scores(report),
            "Confusion": _confusion(report),
            "Calibration": _calibration(report),
            "All metrics": [*sections.result(report), *sections.meanings(report)],
            "Configuration": _configuration(config),
            "Initial weights": origin.initial_weights(report),
            "Provenance": [*sections.provenance(report), *_splits(splits)],
        },
        name=run,
        facts=_facts(report, run),
        tiles=_tiles(report),
        intervals=bool(report.get("bootstrap")) and len(rows_of(report, "per_image")) > 1,
        introduction=sections.introduction(report),
        notes=sections.notes(report),
    )


def _facts(report: Record, run: str) -> list[str]:
    facts = [
        *([f"experiment {report['name']}"] if report["name"] != run else []),
        f"{report['split']} split",
        sections.image_count(report),
        f"checkpoint {report.get('checkpoint', '–')} of step {report.get('step', '–')}",
    ]
    if report.get("threshold") is not None:
        facts.append(f"threshold {sections.rounded(report['threshold'])}")
    return facts


def _tiles(report: Record) -> list[dict[str, Any]]:
    """Returns the tiles at the top of the page, one for each prominent metric of the report."""
    aggregate, tiles = rows_of(report, "aggregate"), []
    for metric in (metric.key for metric in by_prominence() if metric.key in aggregate):
        values, kind = aggregate[metric], sections.statistic(metric)
        others = {}
        for who, key in (("second observer", "observer"), ("trivial", "trivial")):
            other = rows_of(report.get(key) or {}, "aggregate").get(metric, {}).get(kind)
            if other is not None:
                others[who] = other
        tiles.append(
            {
                "label": f"{label(metric)}, pooled" if kind == "pooled" else label(metric),
                "value": values[kind],
                "interval": sections.interval_of(values, kind),
                "lowest": values["min"],
                "highest": values["max"],
                "dots": _dots(rows_of(report, "per_image"), metric),
                "others": others,
            }
        )
    return tiles


def _dots(images: Mapping[str, Record], metric: str) -> list[tuple[str, float, float]]:
    """Returns name, value and position (6 to 194, from lowest to highest) of each image."""
    values = {name: row[metric] for name, row in images.items() if row.get(metric) is not None}
    low, high = min(values.values(), default=0), max(values.values(), default=0)
    shares = {n: (v - low) / (high - low) if high > low else 0.5 for n, v in values.items()}
    return [(name, value, round(6 + 188 * shares[name], 1)) for name, value in values.items()]


def _images(overlays: Sequence[Overlay], classes: Sequence[str]) -> list[Part]:
    if not overlays:
        return []
    meanings = legend(overlays, classes)
    if not is_binary(len(classes)):
        meanings["wrong pixels"] = (FALSE_POSITIVE,)
    rows = [PanelRow(o.name, o.title, panels(o, classes, LONGEST_SIDE)) for o in overlays]
    return [Overlays(meanings, rows)]


def _learning_curves(report: Record, history: Sequence[Record]) -> list[Part]:
    if not history:
        return []
    drawn = charts.learning_curves(history, report.get("step"))
    return [Charts(drawn), sections.learning_curves(report)]


def _confusion(report: Record) -> list[Part]:
    counts, classes = report.get("confusion"), report["classes"]
    if not counts:
        return []
    rows = []
    for true, (name, row) in enumerate(zip(classes, counts, strict=True)):
        total = sum(row)
        cells = [_share(n, total, true == taken) for taken, n in enumerate(row)]
        rows.append([name, *cells, total])
    return [
        Table(["label \\ prediction", *classes, "pixels"], rows),
        "Rows are the labelled classes, columns the predicted ones. A cell has the share of the "
        "pixels of its row, and below it their number, over all images.",
    ]


def _share(count: int, total: int, right: bool) -> Cell:
    if not count:  # dimmed, so that the other cells stand out
        return Cell("0" if total else "–", kind="missing")
    share = count / total
    # The square root keeps a share of a few per cent visible.
    return Cell(
        f"{100 * share:.1f} %",
        f"{count:,}",
        kind=f"share {'right' if right else 'wrong'}",
        style=f"--shade: {70 * share**0.5:.0f}%",
    )


def _calibration(report: Record) -> list[Part]:
    parts = calibration.section(report)
    if not parts:
        return []
    measured = report["calibration"]
    columns = (measured[key] for key in ("predicted", "observed", "pixels"))
    rows = [[str(i), *row] for i, row in enumerate(zip(*columns, strict=True), 1)]
    numbers = Table(["range", "mean predicted probability", "observed share", "pixels"], rows)
    drawn = charts.calibration_chart(measured, calibration.event(report))
    return [Charts([drawn]), *parts, Details("The numbers", [numbers])]


def _configuration(config: Record) -> list[Part]:
    if not config:
        return []
    default = flatten(base.get_config())
    fields = {field: [value, default.get(field, "–")] for field, value in flatten(config).items()}
    changed = {field: values for field, values in fields.items() if values[0] != values[1]}

    def table(chosen: Mapping[str, list], mark: str) -> Table:
        rows = [
            [f"{field}{mark if field in changed else ''}", *map(str, values)]
            for field, values in chosen.items()
        ]
        return Table(["field", "this run", "configs/base.py"], rows, of_files=True)

    details = Details(f"All {len(fields)} fields", [table(fields, " ≠")])
    return [f"{len(changed)} fields differ from `configs/base.py`.", table(changed, ""), details]


def _splits(splits: Mapping[str, Any]) -> list[Part]:
    names = {part: splits[part] for part in PARTS if isinstance(splits.get(part), list)}
    if not names:
        return []
    rows = [[part, len(images)] for part, images in names.items()]
    lists = [
        f"**{in_markdown(part)}:** {', '.join(map(in_markdown, images))}"
        for part, images in names.items()
    ]
    return [Table(["split", "images"], rows), Details("Which image is in which split", lists)]
