"""Writes the results of a comparison: JSON, Markdown, curves over time, and overlays."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.overlays import side_by_side
from benchmarks.peers import results
from benchmarks.peers.peer import Setting, predictions
from benchmarks.peers.results import Entry
from benchmarks.peers.scoring import read_probability
from unet_jax.core.files import write_all
from unet_jax.inference.predictor import decide
from unet_jax.reporting import charts, comparison
from unet_jax.reporting.charts import Chart
from unet_jax.reporting.overlays import best_median_worst
from unet_jax.reporting.sections import headline
from unet_jax.runs.log import read_history

CURVES = "curves.png"
OVERLAYS = "overlays-{}.png"
WINDOW = 512  # side of the part of an image that is shown, pixels
CLOCK = """\
Each peer trained for the same wall time, alone on the same cores, on the same images. The clock \
starts with the training's process, and stops with its last update or validation: the start of \
Python, compilation, reading, augmentation and validation count. Measuring the pace beforehand, \
converting the images, nnU-Net's planning and preprocessing, and the prediction of the test images \
do not; `auto` plans within its time. All predictions are scored at native resolution by one code, \
each at the peer's own threshold; the loss is the binary cross-entropy of the probabilities. Means \
over the test images, then over the seeds (lowest – highest seed) [95 % confidence interval over \
the images]."""
SECTIONS = {
    "Thresholds": "Those other than a peer's own and 0.5 were chosen on the validation images, by "
    "the same rule for all peers.",
    "Paired differences": "The mean over the images of this project's value minus the peer's, each "
    "averaged over the seeds; better and worse count images; p is that of the two-sided sign test.",
    "Test-time augmentation": "The same networks, each with its own test-time augmentation, if it "
    "has one: the symmetries of the training, or nnU-Net's mirroring, which is its default.",
    "Each peer's own Dice": "The mean test Dice by the peer's own code, beside the one that scored "
    "all of them.",
    "Curves": "Loss and validation Dice are each peer's own, and the losses do not compare: "
    "nnU-Net's Dice is pooled over windows, the others are means over images.",
    "Predictions": "The test images on which the peers are the median and the worst, on average: "
    "each peer's prediction with its first seed, and its errors (orange: predicted in error; blue: "
    "missed).",
}


def write(
    setting: Setting,
    entries: Mapping[str, Entry],
    absent: Mapping[str, str],
    facts: Mapping[str, Any],
) -> str:
    """Writes `peers.json`, `peers.md`, `compare.html`, `curves.png` and `overlays-NAME.png`.

    Args:
      setting: the comparison.
      entries: what the peers reached, those that have finished.
      absent: why a peer could not be compared, by name.
      facts: `command`, `commit`, `device`, `cores`, `versions`.

    Returns:
      The page in Markdown.
    """
    content = {
        **facts,
        "config": setting.config.name,
        "minutes": setting.minutes,
        "absent": dict(absent),
        "peers": {name: dataclasses.asdict(entry) for name, entry in entries.items()},
    }
    files = {"peers.json": (json.dumps(content, indent=1) + "\n").encode()}
    figures = {}
    if entries:
        figures[CURVES] = plot_curves(setting, entries)
        for image in _shown(entries):
            figures[OVERLAYS.format(image)] = plot_overlays(setting, entries, image)
        folders = [setting.folder(name, seed) for name, e in entries.items() for seed in e.reports]
        page = comparison.render(comparison.read_runs(folders), setting.out)
        files["compare.html"] = page.encode()
    files |= {name: charts.png(figure) for name, figure in figures.items()}
    page = markdown_page(setting, entries, absent, facts, [*figures])
    files["peers.md"] = page.encode()
    for path in setting.out.glob(OVERLAYS.format("*")):  # of images that were shown before
        path.unlink()
    write_all({setting.out / name: data for name, data in files.items()})
    return page


def markdown_page(
    setting: Setting,
    entries: Mapping[str, Entry],
    absent: Mapping[str, str],
    facts: Mapping[str, Any],
    figures: Sequence[str],
) -> str:
    """Returns the page in Markdown; see `write` for the arguments."""
    splits = setting.dataset.splits
    counts = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"# {setting.config.name}: beside other people's code, {setting.minutes:g} minutes each",
        "",
        f"`{facts['command']}` at {facts['commit']}, {facts['device']}, {facts['cores']} cores, "
        f"{versions}. Images: {counts}.",
        "",
        CLOCK,
        "",
        *results.scores_table(entries),
        "",
    ]
    augmented: list[str] = []
    for table in (results.scores_table, results.thresholds_table, results.paired_table):
        if any(entry.augmented for entry in entries.values()):
            augmented += [*([""] if augmented else []), *table(entries, augmented=True)]
    parts = {
        "Thresholds": results.thresholds_table(entries),
        "Paired differences": results.paired_table(entries),
        "Test-time augmentation": augmented,
        "Each peer's own Dice": results.checks_table(entries),
        "Curves": [f"![{name}]({name})" for name in figures if name == CURVES],
        "Predictions": [f"![{name}]({name})" for name in figures if name != CURVES],
    }
    for heading, table in parts.items():
        if table:
            lines += [f"## {heading}", "", SECTIONS[heading], "", *table, ""]
    lines += ["## What was trained", ""]
    for entry in entries.values():
        versions = next(iter(entry.trainings.values()))["versions"]
        listed = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(f"- **{entry.title}**: {entry.recipe} ({listed}).")
    lines += [f"- **{name}** is not compared: {reason}" for name, reason in absent.items()]
    return "\n".join([*lines, ""])


def plot_curves(setting: Setting, entries: Mapping[str, Entry]) -> Figure:
    """Plots training loss and validation Dice of all trainings over the minutes."""
    quantities = {("train", "loss"): "Training loss", ("validation", "dice"): "Validation Dice"}
    drawn = []
    for (split, key), title in quantities.items():
        lines = []
        for style, (name, entry) in enumerate(entries.items()):
            for place, (seed, training) in enumerate(entry.trainings.items()):
                history = [
                    line | {"epoch": (line["time"] - training["started"]) / 60}
                    for line in read_history(setting.folder(name, seed))
                ]
                # matplotlib's legend leaves out names that begin with an underscore.
                shown = f"_{seed}" if place else name
                lines.append(charts.curve(history, split, key, shown, style))
        drawn.append(Chart(title, lines, x="minutes", logarithmic=key == "loss"))
    return charts.figure(drawn)


def plot_overlays(setting: Setting, entries: Mapping[str, Entry], image: str) -> Figure:
    """Plots the prediction of a test image by each peer, of its first seed, and its errors."""
    split = setting.dataset.splits["test"]
    pixels, label = split.read(split.names.index(image))
    columns = {}
    for name, entry in entries.items():
        seed, report = next(iter(entry.reports.items()))
        folder = predictions(setting.folder(name, seed), "test", tta=False)
        probability = read_probability(folder, image, label.shape)
        mask = decide(probability[..., None], report["threshold"])
        value = report["per_image"][image][headline(report).key]
        columns[f"{name}, {value:.3f}" if value is not None else name] = pixels, label, mask
    return side_by_side(columns, WINDOW)


def _shown(entries: Mapping[str, Entry]) -> list[str]:
    """Returns the test images on which the peers are the median and the worst, on average."""
    reports = [report for entry in entries.values() for report in entry.reports.values()]
    key, rows = headline(reports[0]).key, results.over_seeds(reports)["per_image"]
    values = [float("nan") if row[key] is None else row[key] for row in rows.values()]
    places = best_median_worst(values)
    return [[*rows][index] for index, place in places.items() if place != "best"]
