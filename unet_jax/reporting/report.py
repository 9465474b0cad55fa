"""Writes the report of an evaluation, and compares the reports of several runs.

`write_report` writes the numbers (`report.json`), a page for the browser (`report.html`), the same
in Markdown (`report.md`) and the figures of that page (`figures/`): learning curves, calibration,
and some images with their errors. All files are rendered before the first one is written, and each
replaces its previous version atomically, so that a failed write leaves the old report unchanged. A
page or a figure that cannot be rendered is left out: the numbers are always written. `main` is the
command that compares.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from unet_jax.core.command_help import command_parser
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.files import expand, path_of, read_json, write_all
from unet_jax.core.names import as_code, in_markdown
from unet_jax.core.streams import make_streams_robust
from unet_jax.reporting import calibration, charts, comparison, origin, sections
from unet_jax.reporting.figures import overlay_figure
from unet_jax.reporting.html import report as html_report
from unet_jax.reporting.overlays import Overlay, check_sizes
from unet_jax.reporting.rendering import rendered
from unet_jax.reporting.sections import Record, Table
from unet_jax.runs.folder import SPLIT

HELP = """Compares the reports of finished runs on one page, without changing their folders.

python -m unet_jax.report runs/ph2/* --output=ph2.html

Two runs are also compared image by image, with confidence intervals; see docs/statistics.md.
"""


def write_report(
    folder: Path,
    report: Record,
    history: list[Record],
    overlays: list[Overlay],
    stem: str = "report",
    *,
    config: Record | None = None,
) -> None:
    """Writes `{stem}.json`, `{stem}.html`, `{stem}.md` and `figures/{stem}-*.png` to a folder.

    Args:
      folder: folder of the run, from which the splits are read if they exist.
      report: the numbers. It must have `name`, `split`, `classes` and `aggregate`; the pages show
        the optional keys for which they have a section, and all keys are written to the JSON file.
        An undefined metric is None.
      history: the records of `metrics.jsonl`.
      overlays: images to draw with their labels and predictions.
      stem: start of the file names.
      config: the fields with which the run was evaluated, for their table; None omits it.

    Raises:
      ValueError: a number of the report is not finite, or an overlay's arrays differ in size.
        Nothing has been written then.
    """
    for complaint in _not_finite(report, "report"):
        raise ValueError(f"{complaint}; a number must be finite, and None where it has no meaning")
    for overlay in overlays:
        check_sizes(overlay)
    run = folder.name or folder.absolute().name
    splits = read_json(folder / SPLIT) if (folder / SPLIT).exists() else {}
    numbers = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    figures: dict[str, Callable[[], Figure]] = {
        "curves": lambda: charts.figure(charts.learning_curves(history, report.get("step"))),
        "overlays": lambda: overlay_figure(overlays, report["classes"]),
    }
    if calibration.is_measured(report):
        event = calibration.event(report)
        figures["calibration"] = lambda: charts.figure(
            [charts.calibration_chart(report["calibration"], event)]
        )
    paths = {name: f"figures/{stem}-{name}.png" for name in figures}
    drawn = rendered(
        {folder / paths[f]: lambda draw=draw: charts.png(draw()) for f, draw in figures.items()}
    )
    shown = {name: path for name, path in paths.items() if folder / path in drawn}
    texts = {
        folder / f"{stem}.html": lambda: html_report.render(
            report, history, overlays, config or {}, splits, run
        ),
        folder / f"{stem}.md": lambda: _markdown(report, overlays, shown, run),
    }
    pages = rendered({path: lambda text=text: _encoded(text()) for path, text in texts.items()})
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_all({folder / f"{stem}.json": _encoded(numbers), **drawn, **pages})


def main(arguments: Sequence[str]) -> int:
    """Writes the comparison of several runs; returns 0, or 2 on an error."""
    parser = command_parser("python -m unet_jax.report", HELP)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run")
    parser.add_argument("--output", default="compare.html", metavar="FILE", help="page to write")
    options = parser.parse_args(arguments)
    output = options.output
    try:
        output = Path(expand(output))
        runs = [path_of(run) for run in options.runs]
        found = comparison.read_runs(runs)
        web = comparison.render(found, output.parent)
        write_all({output: web.encode()})
    except UserError as error:
        return print_error(error)
    except OSError as error:
        return print_error(f"--output={output}: cannot be written ({error.strerror})")
    print(f"{output}: {len(options.runs)} runs")
    for title, content in comparison.paired_tables(found).items():
        print(f"\n{title}\n{content if isinstance(content, str) else _aligned(content)}")
    return 0


def _not_finite(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is {value}"
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, (list, tuple)) else items
    for key, inner in items:
        yield from _not_finite(inner, f"{where}[{key!r}]")


def _encoded(text: str) -> bytes:
    """Encodes as UTF-8; surrogates, from undecodable file names, become \\udcXX as in JSON."""
    return text.encode(errors="backslashreplace")


def _markdown(
    report: Record, overlays: list[Overlay], pictures: Mapping[str, str], run: str
) -> str:
    """Renders the report of a run as Markdown; `pictures` maps its figures to their paths."""

    def shown(name: str, what: str) -> str:
        path = pictures.get(name)
        return f"![{what}]({path})" if path else f"The picture ({what}) could not be made."

    captions = [
        f"{row}. {as_code(o.name)}: {in_markdown(o.title)}" for row, o in enumerate(overlays, 1)
    ]
    calibrated = calibration.section(report)
    if calibrated:
        calibrated.insert(0, shown("calibration", "calibration curve"))
    parts = {
        "Result": sections.result(report),
        "Thresholds": sections.thresholds(report),
        "Comparison with a second observer": sections.observer_comparison(report),
        "Comparison with a trivial predictor": sections.trivial_comparison(report),
        "Scores per class": sections.class_scores(report),
        "Learning curves": [shown("curves", "learning curves"), sections.learning_curves(report)],
        "Calibration": calibrated,
        "Images": [shown("overlays", "images, labels and predictions"), "\n".join(captions)],
        "Scores per image": sections.image_scores(report),
        "What the metrics mean": sections.meanings(report),
        "Initial weights": origin.initial_weights(report),
        "Provenance": sections.provenance(report),
    }
    title = f"# {in_markdown(run)}: {in_markdown(report['split'])}"
    page = [title, sections.introduction(report), sections.notes(report)]
    for heading, content in parts.items():
        texts = [part if isinstance(part, str) else _table(part) for part in content]
        page += [f"## {heading}", *texts] if texts else []
    return "\n\n".join(filter(None, page)) + "\n"


def _aligned(table: Table) -> str:
    """Renders a table for a terminal, the first column aligned left and the others right."""
    rows = [list(table.header), *([sections.cell(x) for x in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def _table(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    rows = [[in_markdown(sections.cell(cell)) for cell in row] for row in table.rows]
    if table.of_files:
        names = (as_code(str(row[0])).replace("|", "\\|") for row in table.rows)
        rows = [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]
    lines = [map(in_markdown, table.header), rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    make_streams_robust()
    sys.exit(main(sys.argv[1:]))
