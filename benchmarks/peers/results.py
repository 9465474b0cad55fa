"""The results of a comparison as tables: means over seeds, intervals, and paired differences."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from unet_jax.evaluation.intervals import add_mean_intervals
from unet_jax.metrics.registry import by_prominence
from unet_jax.reporting import paired
from unet_jax.reporting.sections import bracketed, label

Record = dict[str, Any]
FIRST = "ours"  # the peer with which the others are compared, if it is there


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a peer reached: its reports and trainings by seed."""

    title: str
    recipe: str
    reports: Mapping[int, Record]  # without test-time augmentation
    augmented: Mapping[int, Record]  # with the peer's own; empty if it has none
    trainings: Mapping[int, Record]
    own_dice: Mapping[int, float | None]  # by the peer's own code


def over_seeds(reports: Sequence[Record]) -> Record:
    """Averages the reports of seeds image by image.

    Returns:
      `classes`, `per_image` and `settings` as in a report, and `aggregate`: for each metric the
      `mean`, its confidence `interval` over the images, and the mean of each of the `seeds`.
    """
    first = reports[0]
    per_image = {
        name: {key: _mean([report["per_image"][name][key] for report in reports]) for key in row}
        for name, row in first["per_image"].items()
    }
    aggregate: dict[str, Record] = {}
    for key in first["aggregate"]:
        seeds = [report["aggregate"][key]["mean"] for report in reports]
        aggregate[key] = {"mean": _mean(seeds), "seeds": seeds}
    add_mean_intervals(aggregate, per_image)
    settings = {"settings": first["settings"]} if "settings" in first else {}
    return {"classes": first["classes"], "per_image": per_image, "aggregate": aggregate, **settings}


def _mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean; None if a value is undefined."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


def scores_table(entries: Mapping[str, Entry], augmented: bool = False) -> list[str]:
    """Returns a Markdown table of the prominent metrics: mean, seeds, interval over images."""
    found = {
        name: over_seeds([*reports.values()])["aggregate"]
        for name, entry in entries.items()
        if (reports := entry.augmented if augmented else entry.reports)
    }
    known = {key for aggregate in found.values() for key in aggregate}
    keys = [metric.key for metric in by_prominence() if metric.key in known]
    rows = []
    for name, aggregate in found.items():
        trainings = [*entries[name].trainings.values()]
        minutes = statistics.mean(training["seconds"] for training in trainings) / 60
        steps = statistics.mean(training["steps"] for training in trainings)
        cells = [_score(aggregate.get(key)) for key in keys]
        millions = trainings[0]["parameters"] / 1e6
        rows.append(
            [entries[name].title, *cells, f"{minutes:.1f}", f"{steps:,.0f}", f"{millions:.2f}"]
        )
    heads = ["trained with", *map(label, keys), "minutes", "steps", "parameters, M"]
    return markdown(heads, rows)


def _score(values: Record | None) -> str:
    if values is None or values["mean"] is None:
        return "–"
    text, seeds = f"**{values['mean']:.4f}**", values["seeds"]
    if len(seeds) > 1:
        text += f" ({min(seeds):.4f} – {max(seeds):.4f})"
    return f"{text} {bracketed(values['interval'])}".strip()


def thresholds_table(entries: Mapping[str, Entry], augmented: bool = False) -> list[str]:
    """Returns a Markdown table of the metrics at each peer's thresholds, means over the seeds."""
    rows, keys = [], []
    for entry in entries.values():
        reports = [*(entry.augmented if augmented else entry.reports).values()]
        tables = [{row["rule"]: row for row in report["thresholds"]} for report in reports]
        # Reports of earlier versions have fewer rules.
        shared = [rule for rule in (tables[0] if tables else ()) if all(rule in t for t in tables)]
        for rule in shared:
            lines = [table[rule] for table in tables]
            keys = keys or [key for key in lines[0] if key not in ("rule", "threshold")]
            at = [line["threshold"] for line in lines]
            shown = "–" if None in at else " / ".join(f"{x:.2f}" for x in at)
            means = [_mean([line[key] for line in lines]) for key in keys]
            cells = ["–" if mean is None else f"{mean:.4f}" for mean in means]
            rows.append([entry.title, rule, shown, *cells])
    return markdown(["trained with", "threshold", "by seed", *map(label, keys)], rows)


def paired_table(entries: Mapping[str, Entry], augmented: bool = False) -> list[str]:
    """Returns a Markdown table of `FIRST` minus each other peer, image by image, over the seeds."""
    reports = {
        name: over_seeds([*chosen.values()])
        for name, entry in entries.items()
        if (chosen := entry.augmented if augmented else entry.reports)
    }
    if FIRST not in reports or len(reports) == 1:
        return []
    shown = {metric.key for metric in by_prominence()}
    rows: list[list[Any]] = []
    for name, report in reports.items():
        if name == FIRST:
            continue
        compared = paired.compare(report, reports[FIRST])
        if isinstance(compared, str):
            rows.append([entries[name].title, compared, *[""] * 4])
            continue
        for row in compared:
            if row.metric.key in shown:
                interval = "[{:+.4f}, {:+.4f}]".format(*row.interval) if row.interval else "–"
                p = "–" if row.p is None else f"{row.p:.2g}"
                cells = [f"{row.difference:+.4f} {interval}", row.better, row.worse, p]
                rows.append([entries[name].title, row.metric.label, *cells])
    heads = ["minus", "metric", "difference [95 % CI]", "better", "worse", "p"]
    return markdown(heads, rows)


def checks_table(entries: Mapping[str, Entry]) -> list[str]:
    """Returns a Markdown table of each peer's own Dice beside that of the one scoring code."""
    rows = []
    for entry in entries.values():
        for seed, own in entry.own_dice.items():
            ours = entry.reports[seed]["aggregate"]["dice"]["mean"]
            cells = ["–", "–"] if own is None else [f"{own:.5f}", f"{ours - own:+.5f}"]
            rows.append([entry.title, seed, f"{ours:.5f}", *cells])
    return markdown(["trained with", "seed", "Dice, scored here", "its own", "difference"], rows)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Returns the lines of a Markdown table, numbers to the right."""
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]
