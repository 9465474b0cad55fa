"""Comparison of several runs: a page of their scores, learning curves and differing fields."""

import dataclasses
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

from configs import base
from unet_jax.core.bucket import is_bucket
from unet_jax.core.config import flatten
from unet_jax.core.errors import UserError
from unet_jax.core.files import read_json
from unet_jax.core.names import in_markdown
from unet_jax.metrics.registry import METRICS, Metric, by_prominence
from unet_jax.reporting import charts, origin, paired
from unet_jax.reporting.charts import Line
from unet_jax.reporting.html import page
from unet_jax.reporting.html.page import Cell, Charts, Part
from unet_jax.reporting.sections import (
    Record,
    Table,
    bracketed,
    cell,
    headline,
    interval_of,
    label,
    rows_of,
    same_settings,
    statistic,
)
from unet_jax.runs.folder import CONFIG, stored_config
from unet_jax.runs.log import read_history

FACTS = "name split checkpoint step threshold parameters device config_digest".split()


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, as read from its folder."""

    name: str
    folder: pathlib.Path
    report: Record  # the content of report.json
    history: list[Record]  # the lines of metrics.jsonl
    config: Record  # the flattened fields; empty if the folder has no config


def read_runs(folders: Sequence[pathlib.Path]) -> list[Run]:
    """Reads finished runs.

    Args:
      folders: the folders of the runs.

    Returns:
      The runs in the given order. A run is named after its folder, or by the path as given if
      another folder has the same name.

    Raises:
      UserError: a folder has no valid report, has an invalid config, or is given twice.
    """
    places = [folder.resolve() for folder in folders]
    names = [place.name for place in places]
    runs = []
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{folder}: given twice; give each run once")
        path = folder / "report.json"
        if not path.exists():
            raise UserError(
                f"{folder}: no report.json there; give the folders of finished runs, or report "
                f"first: python launch.py --mode=eval --workdir={folder}"
            )
        report = read_json(path)
        if not isinstance(report, dict) or not {"name", "classes", "aggregate"} <= report.keys():
            raise UserError(f"{path}: is not the report of a run; write it again with --mode=eval")
        config = {}
        if (folder / CONFIG).exists():
            # A run of an older version lacks newer fields, whose defaults reproduce its behaviour.
            config = flatten(base.get_config()) | stored_config(folder)
        name = place.name if names.count(place.name) == 1 else str(folder)
        runs.append(Run(name, folder, report, read_history(folder), config))
    return runs


def render(runs: Sequence[Run], folder: pathlib.Path) -> str:
    """Renders the HTML page that compares `runs`; its links are relative to `folder`."""
    headings = {
        "Scores": _scores(runs, folder),
        "Paired comparison": _paired(runs),
        "Learning curves": _learning_curves(runs),
        "Fields that differ": _differing(runs),
        "Scores per image": _each_image(runs),
        "Provenance": [_facts(runs)],
    }
    title = f"{len(runs)} runs side by side" if len(runs) > 1 else runs[0].name
    return page.render("comparison.html", title, headings, warnings=_warnings(runs))


def _warnings(runs: Sequence[Run]) -> list[str]:
    warnings = []
    if len({tuple(run.report["classes"]) for run in runs}) > 1:
        warnings.append("the runs segment different classes, and their scores do not compare")
    if len({frozenset(rows_of(run.report, "per_image")) for run in runs}) > 1:
        warnings.append("the runs are scored on different images, and their means do not compare")
    if not _one_loss(runs):
        warnings.append("the runs minimise different losses, and these do not compare")
    if differing := [metric.label for metric in METRICS.values() if not _comparable(metric, runs)]:
        warnings.append(
            f"the runs have different settings of {', '.join(differing)}, and these do not compare"
        )
    return warnings


def _comparable(metric: Metric, runs: Sequence[Run]) -> bool:
    """Returns whether a metric has the same settings in all runs that report it."""
    reports = [run.report for run in runs if metric.key in rows_of(run.report, "aggregate")]
    return len(reports) < 2 or same_settings(metric.key, reports)


def _one_loss(runs: Sequence[Run]) -> bool:
    losses = [{k: v for k, v in run.config.items() if k.startswith("loss.")} for run in runs]
    return all(loss == losses[0] for loss in losses)


def _scores(runs: Sequence[Run], folder: pathlib.Path) -> list[Part]:
    aggregates = [rows_of(run.report, "aggregate") for run in runs]
    reported = dict.fromkeys(metric for aggregate in aggregates for metric in aggregate)
    prominent = [metric.key for metric in by_prominence()]
    metrics = sorted(reported, key=lambda m: (*prominent, m).index(m))
    rows: list[list[Any]] = [[Cell(run.name, link=_link(run, folder))] for run in runs]
    for metric in metrics:
        values = [aggregate.get(metric, {}).get(statistic(metric)) for aggregate in aggregates]
        judged = len(runs) > 1 and (metric != "loss" or _one_loss(runs))
        judged &= metric not in METRICS or _comparable(METRICS[metric], runs)
        best = _best(metric, values) if judged else None
        for row, value, aggregate in zip(rows, values, aggregates, strict=True):
            score = None if value is None else _score(metric, aggregate[metric], value == best)
            row.append(score)
    heads = [METRICS[m].quoted(label(m)) if m in METRICS else m for m in metrics]
    return [
        Table(["run", *heads], rows, sortable=True),
        "Means over the images of each run's report, and below them [the 95 % confidence interval "
        "over the images] or, in reports of earlier versions, the lowest and the highest image. "
        "★ is the best of a column.",
    ]


def _best(metric: str, values: Sequence[float | None]) -> float | None:
    """Returns the best value; None if there is none or the metric is not registered."""
    known = [value for value in values if value is not None]
    return METRICS[metric].best(known) if known and metric in METRICS else None


def _score(metric: str, values: Record, best: bool) -> Cell:
    value, interval = values[statistic(metric)], interval_of(values, statistic(metric))
    ends = f"{cell(values.get('min'))} – {cell(values.get('max'))}"
    text = f"★ {cell(value)}" if best else cell(value)
    return Cell(text, bracketed(interval) or ends, number=value, kind="best" if best else None)


def _paired(runs: Sequence[Run]) -> list[Part]:
    """Compares each run with the first on the images that both were scored on."""
    parts: list[Part] = []
    for title, content in paired_tables(runs).items():
        parts += [f"**{in_markdown(title)}**", content]
    return [*parts, paired.EXPLANATION] if any(isinstance(p, Table) for p in parts) else parts


def paired_tables(runs: Sequence[Run]) -> dict[str, Table | str]:
    """Returns the paired comparison of each run with the first, by title.

    Args:
      runs: the runs.

    Returns:
      A table for each run but the first, or the reason why there is none.
    """
    first, *others = runs
    found: dict[str, Table | str] = {}
    for other in others:
        same_loss = _one_loss([first, other])
        comparison = paired.compare(first.report, other.report, [] if same_loss else ["loss"])
        title = f"{other.name} minus {first.name}"
        if isinstance(comparison, str):
            found[title] = f"Not compared image by image: {comparison}."
        else:
            title += f", {len(rows_of(first.report, 'per_image'))} images"
            thresholds = [run.report.get("threshold") for run in (other, first)]
            if thresholds[0] != thresholds[1]:
                title += ", thresholds {} and {}".format(*thresholds)
            found[title] = paired.table(comparison)
    return found


def _link(run: Run, folder: pathlib.Path) -> str | None:
    report = run.folder / "report.html"
    if is_bucket(report):  # to which a browser does not follow a link
        return None
    return urllib.parse.quote(os.path.relpath(report, folder)) if report.exists() else None


def _learning_curves(runs: Sequence[Run]) -> list[Part]:
    drawn = charts.validation_charts({run.name: run.history for run in runs})
    legend = [Line(run.name, [], style) for style, run in enumerate(runs)]
    return [Charts(drawn, legend)] if drawn else []


def _differing(runs: Sequence[Run]) -> list[Part]:
    fields = sorted({field for run in runs for field in run.config})
    rows = []
    for field in fields:
        values = [run.config.get(field, "–") for run in runs]
        if any(value != values[0] for value in values):
            rows.append([field, *map(str, values)])
    if len(runs) == 1:
        return []
    return [_beside("field", runs, rows)] if rows else ["The runs have one config."]


def _each_image(runs: Sequence[Run]) -> list[Part]:
    metrics = [headline(run.report).key for run in runs]
    images = [rows_of(run.report, "per_image") for run in runs]
    rows = []
    for name in sorted({name for of_run in images for name in of_run}):
        values = [
            of_run.get(name, {}).get(metric) for of_run, metric in zip(images, metrics, strict=True)
        ]
        known = [value for value in values if value is not None]
        rows.append([name, *values, max(known) - min(known) if len(known) > 1 else None])
    if not rows:
        return []
    heads = [f"{label(metrics[0])} of", *(run.name for run in runs), "max - min"]
    return [Table(heads, rows, of_files=True, sortable=True)]


def _facts(runs: Sequence[Run]) -> Table:
    rows: list[list[Any]] = [["images", *(len(rows_of(r.report, "per_image")) for r in runs)]]
    for fact in FACTS:
        rows.append([fact.replace("_", " "), *(run.report.get(fact) for run in runs)])
    rows.append(["initial weights", *(origin.summary(run.report) for run in runs)])
    packages = sorted({name for run in runs for name in run.report.get("versions") or {}})
    for package in packages:
        versions = ((run.report.get("versions") or {}).get(package) for run in runs)
        rows.append([package, *versions])
    return _beside("item", runs, rows)


def _beside(what: str, runs: Sequence[Run], rows: list[list[Any]]) -> Table:
    return Table([what, *(run.name for run in runs)], rows, of_files=what == "field")
