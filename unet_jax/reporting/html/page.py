"""The HTML report of a run, `report.html`: a single file that needs no network."""

from collections.abc import Mapping, Sequence
from typing import Any

from configs import base
from unet_jax.core.config import flatten
from unet_jax.core.names import in_markdown
from unet_jax.reporting import sections
from unet_jax.reporting.figures import FALSE_POSITIVE, Overlay, legend, panels
from unet_jax.reporting.html.markup import (
    Markup,
    anchor,
    document,
    picture,
    prose,
    section,
    table,
    tag,
)
from unet_jax.reporting.html.plots import Line, chart, curve, strip
from unet_jax.reporting.sections import Record, Table, label, rows_of

# SCORES are plotted over the epochs; each of HEADLINES has a tile at the top of the page.
SCORES = "dice iou mean_iou pixel_accuracy mean_accuracy auc v_rand v_info".split()
HEADLINES = (*SCORES, "loss")
LONGEST_SIDE = 640  # largest side of an image on the page, in pixels


def render(
    report: Record,
    history: Sequence[Record],
    overlays: Sequence[Overlay],
    config: Record,
    splits: Mapping[str, Any],
) -> str:
    """Renders the HTML page of a report.

    Sections without data are omitted.

    Args:
      report: the content of `report.json`.
      history: the records of `metrics.jsonl`.
      overlays: images with labels and predictions; see `panels` for what is drawn.
      config: the fields of the run.
      splits: the content of `split.json`.

    Returns:
      The page as HTML.
    """
    headings = {
        "Images": _images(overlays, report["classes"]),
        "Learning curves": _learning_curves(report, history),
        "Each image": [
            table(part, "Each image", sortable=True)
            for part in sections.each_image(report)
            if isinstance(part, Table)
        ],
        "Thresholds": sections.thresholds(report),
        "Beside a second observer": sections.beside_observer(report),
        "Beside a trivial predictor": sections.beside_trivial(report),
        "Each class": sections.each_class(report),
        "Confusion": _confusion(report),
        "Calibration": _calibration(report),
        "All metrics": [*sections.result(report), *sections.meanings(report)],
        "Configuration": _configuration(config),
        "Made with": [*sections.provenance(report), *_splits(splits)],
    }
    links = [tag("a", name, href=f"#{anchor(name)}") for name, parts in headings.items() if parts]
    notes = "\n".join(f"- **Note**: {in_markdown(note)}." for note in report.get("notes", []))
    return document(
        f"{report['name']}: {report['split']}",
        tag("h1", report["name"], " ", tag("small", _subtitle(report))),
        tag("nav", *links, aria_label="Sections"),
        _tiles(report),
        prose(sections.introduction(report)),
        prose(notes) if notes else None,
        *(section(name, *parts) for name, parts in headings.items()),
    )


def _subtitle(report: Record) -> str:
    facts = [
        f"{report['split']} split",
        f"{len(rows_of(report, 'per_image'))} images",
        f"checkpoint {report.get('checkpoint', '–')} of step {report.get('step', '–')}",
    ]
    if report.get("threshold") is not None:
        facts.append(f"threshold {report['threshold']}")
    return " · ".join(facts)


def _tiles(report: Record) -> Markup:
    aggregate = rows_of(report, "aggregate")
    tiles = []
    for metric in (metric for metric in HEADLINES if metric in aggregate):
        values = aggregate[metric]
        kind = sections.statistic(metric)
        images = {
            name: row[metric]
            for name, row in rows_of(report, "per_image").items()
            if row.get(metric) is not None
        }
        others = []
        for who, key in (("second observer", "observer"), ("trivial", "trivial")):
            other = rows_of(report.get(key) or {}, "aggregate").get(metric, {}).get(kind)
            if other is not None:
                others.append(tag("p", f"{who} {sections.cell(other)}"))
        ends = [tag("span", sections.cell(values[end])) for end in ("min", "max")]
        tiles.append(
            tag(
                "div",
                tag("h3", f"{label(metric)}, pooled" if kind == "pooled" else label(metric)),
                tag("p", sections.cell(values[kind]), class_="number"),
                strip(images) if images else None,
                tag("p", *ends, class_="ends", title="the lowest and the highest image"),
                *others,
                class_="tile",
            )
        )
    remark = "Means over the images; a dot for each image, from the lowest to the highest."
    return tag("div", tag("div", *tiles, class_="tiles"), tag("p", tag("small", remark)))


def _images(overlays: Sequence[Overlay], classes: Sequence[str]) -> list[Markup]:
    if not overlays:
        return []
    meanings = legend(overlays, classes)
    if len(classes) > 2:
        meanings["wrong, in the last picture"] = (FALSE_POSITIVE,)
    keys = [
        tag("li", tag("i", style=f"--from: {c[0]}; --to: {c[-1]}", class_="swatch"), " ", meaning)
        for meaning, c in meanings.items()
    ]
    shown = [tag("ul", *keys, class_="legend")]
    for overlay in overlays:
        pictures = [
            tag("figure", picture(pixels, f"{overlay.name}, {what}"), tag("figcaption", what))
            for what, pixels in panels(overlay, classes, LONGEST_SIDE).items()
        ]
        shown += [tag("h3", overlay.title), tag("div", *pictures, class_="panels")]
    return shown


def _learning_curves(report: Record, history: Sequence[Record]) -> list[sections.Part]:
    if not history:
        return []
    epochs = {record["step"]: record["epoch"] for record in history}
    mark = None
    if report.get("step") in epochs:
        mark = epochs[report["step"]], f"reported checkpoint, step {report['step']}"
    losses = [
        curve(history, "train", "loss", "training", 0),
        curve(history, "validation", "loss", "validation", 1),
    ]
    scores = [
        curve(history, "validation", metric, label(metric), style)
        for style, metric in enumerate(SCORES)
    ]
    charts = [
        chart("Loss", losses, x="epoch", mark=mark, logarithmic=True),
        chart("Validation metrics", scores, x="epoch", mark=mark),
    ]
    return [tag("div", *charts, class_="charts"), sections.LEARNING_CURVES]


def _confusion(report: Record) -> list[sections.Part]:
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
        "Of the pixels that the label gives a class (row), the share that was predicted as each "
        "class (column), and below it their number, over all images.",
    ]


def _share(count: int, total: int, right: bool) -> Markup:
    if not count:  # dimmed, so that the other cells stand out
        return tag("td", "0" if total else "–", class_="missing")
    share = count / total
    # The square root keeps a share of a few per cent visible.
    return tag(
        "td",
        f"{100 * share:.1f} %",
        tag("small", f"{count:,}"),
        class_=f"share {'right' if right else 'wrong'}",
        style=f"--shade: {70 * share**0.5:.0f}%",
    )


def _calibration(report: Record) -> list[sections.Part]:
    parts = sections.calibration(report)
    if not parts:
        return []
    calibration = report["calibration"]
    points = list(zip(calibration["predicted"], calibration["observed"], strict=True))
    drawn = chart(
        f"Observed share against predicted probability: {sections.event(report)}",
        [Line("model", points, 0)],
        x="predicted probability",
        diagonal="perfectly calibrated",
    )
    columns = (calibration[key] for key in ("predicted", "observed", "pixels"))
    rows = [[str(i), *row] for i, row in enumerate(zip(*columns, strict=True), 1)]
    numbers = Table(["range", "mean predicted probability", "observed share", "pixels"], rows)
    details = tag("details", tag("summary", "The numbers"), table(numbers, "Calibration"))
    return [tag("div", drawn, class_="charts"), *parts, details]


def _configuration(config: Record) -> list[sections.Part]:
    if not config:
        return []
    default = flatten(base.get_config())
    fields = {field: [value, default.get(field, "–")] for field, value in flatten(config).items()}
    changed = {field: values for field, values in fields.items() if values[0] != values[1]}
    heads = ["field", "here", "configs/base.py"]

    def shown(chosen: Mapping[str, list], marks: str) -> Table:
        rows = []
        for field, values in chosen.items():
            mark = marks if field in changed else ""
            rows.append([tag("strong" if mark else "span", tag("code", field), mark), *values])
        return Table(heads, [[name, *map(str, values)] for name, *values in rows])

    details = tag(
        "details",
        tag("summary", f"All {len(fields)} fields"),
        table(shown(fields, " ≠"), "All fields"),
    )
    return [f"{len(changed)} fields differ from `configs/base.py`.", shown(changed, ""), details]


def _splits(splits: Mapping[str, Any]) -> list[sections.Part]:
    names = {part: value for part, value in splits.items() if isinstance(value, list)}
    if not names:
        return []
    rows = [[part, len(images)] for part, images in names.items()]
    lists = [
        tag("p", tag("strong", f"{part}: "), ", ".join(images)) for part, images in names.items()
    ]
    details = tag("details", tag("summary", "Which image is in which split"), *lists)
    return [Table(["split", "images"], rows), details]
