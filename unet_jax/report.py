"""The numbers of an evaluation, written as files that a reader can trust.

    python -m unet_jax.report RUN RUN ... --output=compare.html

sets the reports of finished runs side by side on one page, and changes nothing in their folders.

`write_report` makes the numbers (`report.json`), a page to look at (`report.html`), the same as
text (`report.md`) and its pictures (`figures/`): learning curves, calibration, some images with
their errors. All are rendered before the first one is written, and each replaces its predecessor
in one move, so a failure leaves the old report as it was.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unet_jax import comparison, page, sections
from unet_jax.errors import UserError, print_error
from unet_jax.figures import (
    Overlay,
    calibration_curve,
    learning_curves,
    overlay_figure,
    png,
)
from unet_jax.files import read_json, write_all
from unet_jax.sections import Record, Table
from unet_jax.workdir import CONFIG, SPLIT


def write_report(
    folder: Path,
    report: Record,
    history: list[Record],
    overlays: list[Overlay],
    stem: str = "report",
) -> None:
    """Writes `{stem}.json`, `{stem}.html`, `{stem}.md` and `figures/{stem}-*.png` in `folder`.

    `report` must have `name`, `split`, `classes` and `aggregate`; the pages show what else they
    know of, and other keys only reach the JSON. `history` holds the records of `metrics.jsonl`;
    config and splits are those of the run in `folder`, where there is one.
    Raises ValueError, before anything is written, if a number of the report is not finite (a
    metric without meaning is None) or if an overlay's arrays differ in size.
    """
    for complaint in _not_finite(report, "report"):
        raise ValueError(f"{complaint}; a number must be finite, and None where it has no meaning")
    curves, pictures = f"figures/{stem}-curves.png", f"figures/{stem}-overlays.png"
    calibrated = f"figures/{stem}-calibration.png"
    config, splits = (_read_if_there(folder / name) for name in (CONFIG, SPLIT))
    numbers = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    contents = {
        folder / curves: png(learning_curves(history, report.get("step"))),
        folder / pictures: png(overlay_figure(overlays, report["classes"])),
        folder / f"{stem}.json": numbers.encode(),
        folder / f"{stem}.html": page.render(
            report, history, overlays, config.get("config", {}), splits
        ).encode(),
        folder / f"{stem}.md": _markdown(report, overlays, curves, pictures, calibrated).encode(),
    }
    if sections.is_calibrated(report):
        figure = calibration_curve(report["calibration"], sections.event(report))
        contents[folder / calibrated] = png(figure)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_all(contents)


def main(arguments: Sequence[str]) -> int:
    """Writes the page of several runs; returns 0, or 2 for a wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m unet_jax.report", description="Sets finished runs side by side on a page."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run", type=Path)
    parser.add_argument("--output", default="compare.html", metavar="FILE", type=Path)
    options = parser.parse_args(arguments)
    output = options.output
    try:
        web = comparison.render(comparison.read_runs(options.runs), output.parent)
        write_all({output: web.encode()})
    except UserError as error:
        return print_error(error)
    except OSError as error:
        return print_error(f"--output={output}: cannot be written ({error.strerror})")
    print(f"{output}: {len(options.runs)} runs")
    return 0


def _read_if_there(path: Path) -> Record:
    return read_json(path) if path.exists() else {}


def _not_finite(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is {value}"
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, (list, tuple)) else items
    for key, inner in items:
        yield from _not_finite(inner, f"{where}[{key!r}]")


def _markdown(
    report: Record, overlays: list[Overlay], curves: str, pictures: str, calibrated: str
) -> str:
    captions = [f"{row}. `{o.name}`: {o.title}" for row, o in enumerate(overlays, 1)]
    calibration = sections.calibration(report)
    if calibration:
        calibration.insert(0, f"![calibration curve]({calibrated})")
    parts = {
        "Result": sections.result(report),
        "Thresholds": sections.thresholds(report),
        "Beside a second observer": sections.beside_observer(report),
        "Beside a trivial predictor": sections.beside_trivial(report),
        "Each class": sections.each_class(report),
        "Learning curves": [f"![learning curves]({curves})", sections.LEARNING_CURVES],
        "Calibration": calibration,
        "Images": [f"![images, labels and predictions]({pictures})", "\n".join(captions)],
        "Each image": sections.each_image(report),
        "What the metrics mean": sections.meanings(report),
        "Made with": sections.provenance(report),
    }
    page = [f"# {report['name']}: {report['split']}", sections.introduction(report)]
    page.append("\n".join(f"- **Note**: {note}." for note in report.get("notes", [])))
    for heading, content in parts.items():
        texts = [part if isinstance(part, str) else _table(part) for part in content]
        page += [f"## {heading}", *texts] if texts else []
    return "\n\n".join(filter(None, page)) + "\n"


def _table(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    named = [[f"`{row[0]}`" if table.of_files else row[0], *row[1:]] for row in table.rows]
    cells = [
        [sections.cell(cell).replace("|", "\\|") for cell in row]
        for row in (table.header, rule, *named)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
