"""Trains each of several configs with each of several seeds, and compares the scores.

python -m unet_jax.sweep --config=configs/ph2.py:unet,dice --config=configs/ph2.py:unet,bce \\
    --seeds=0,1,2 --workdir=runs/ph2

`--folds=0,1,2` also trains each on these folds of a cross-validation. The runs are trained one
after another, each in its own process; if one fails, the sweep continues with the next one.
`--config.FIELD=VALUE` is passed to every run, and so is `--init_from=RUN`, with which it starts
from the weights of another run. Rerunning the command resumes the sweep: finished
runs only write their report. WORKDIR receives a folder and a log for each run, and `sweep.md`,
`sweep.json` and `sweep.png`: the mean and range over each config's runs, best first.
"""

import argparse
import contextlib
import math
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from unet_jax.core.bucket import is_bucket
from unet_jax.core.command_help import command_parser, describe_config
from unet_jax.core.config import flatten
from unet_jax.core.errors import EXIT_INTERRUPTED, UserError, print_error
from unet_jax.core.faults import explained
from unet_jax.core.files import read_json, run_path, write_all, write_json
from unet_jax.core.names import in_figure, in_markdown
from unet_jax.core.streams import make_streams_robust
from unet_jax.metrics import bootstrap
from unet_jax.metrics.registry import METRICS, by_prominence
from unet_jax.reporting import origin
from unet_jax.reporting.charts import png
from unet_jax.reporting.colours import BLUE
from unet_jax.reporting.launching import LAUNCHER, launch
from unet_jax.reporting.rendering import rendered
from unet_jax.reporting.sections import bracketed, interval_of, label, rows_of
from unet_jax.runs.commandline import PLATFORMS, load_config


class Run(NamedTuple):
    """A training run of a config with a seed and, in a cross-validation, a fold."""

    config: str
    seed: int
    fold: int | None = None  # fold of a cross-validation

    @property
    def folder(self) -> str:
        """The run's folder: ph2-unet-bce-seed0 for configs/ph2.py:unet,bce with seed 0."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{name_of(self.config)}-seed{self.seed}{fold}"

    @property
    def flags(self) -> list[str]:
        """The launcher's flags for this run, without the overrides that all runs share."""
        fold = [] if self.fold is None else [f"--config.data.fold={self.fold}"]
        return [f"--config={self.config}", f"--config.seed={self.seed}", *fold]


def main(arguments: Sequence[str]) -> int:
    """Runs the sweep; returns 0, 1 if a run failed, 75 if it was stopped, 2 for a usage error."""
    parser = command_parser("python -m unet_jax.sweep", __doc__)
    parser.add_argument(
        "--config", action="append", required=True, help="configs/NAME.py[:VARIANT]; repeatable"
    )
    parser.add_argument(
        "--seeds", type=numbers, default="0", help="seeds of the runs, such as 0,1,2"
    )
    parser.add_argument(
        "--folds", type=numbers, default=[None], help="folds of a cross-validation, such as 0,1,2"
    )
    parser.add_argument("--workdir", required=True, help="folder of the sweep")
    parser.add_argument("--platform", choices=PLATFORMS, help="compute on this or fail")
    parser.add_argument("--init_from", metavar="RUN", help="start from its weights; as launch.py's")
    describe_config(parser, config=False)
    options, overrides = parser.parse_known_args(arguments)
    for argument in overrides:
        if not argument.startswith("--config."):
            parser.error(f"{argument!r}: neither an option nor a --config.FIELD=VALUE")
        if argument.startswith("--config.seed="):
            parser.error(f"{argument}: each run has a seed of its own; give --seeds=0,1,...")
        if argument.startswith("--config.data.fold=") and options.folds != [None]:
            parser.error(f"{argument}: each run has a fold of its own, from --folds")
    given = {"platform": options.platform, "init_from": options.init_from}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    runs = [
        Run(config, seed, fold)
        for config in options.config
        for seed in options.seeds
        for fold in options.folds
    ]
    if len({run.folder for run in runs}) < len(runs):
        parser.error("a config, a seed or a fold is given twice")
    try:
        workdir = run_path(options.workdir)
        check_planned(options.config, overrides)
        with explained(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            return run_all(runs, [*overrides, *flags], workdir)
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:  # Ctrl-C between two runs
        print("stopped; rerunning the command resumes the sweep")
        return EXIT_INTERRUPTED


def check_planned(configs: Sequence[str], overrides: Sequence[str]) -> None:
    """Raises a `UserError` if a config leaves fields open, which each run would choose anew."""
    for config in configs:
        try:
            fields = flatten(load_config([f"--config={config}", *overrides]))
        except UserError:
            continue  # its runs say so, and the others are trained
        if unset := [name for name, value in fields.items() if value is None]:
            raise UserError(
                f"--config={config}: leaves {', '.join(unset)} open, so that each run would have a "
                f"plan of its own; train one with launch.py, and give the fields of its config.json"
            )


def run_all(runs: Sequence[Run], overrides: Sequence[str], workdir: pathlib.Path) -> int:
    """Runs all trainings, updates the table after each, and returns the exit code; see `main`."""
    failed: list[str] = []
    for place, run in enumerate(runs, 1):
        folder = workdir / run.folder
        print(f"[{place}/{len(runs)}] {folder}", flush=True)
        flags = [*run.flags, *overrides, f"--workdir={folder}"]
        with local_log(folder.with_name(f"{folder.name}.log")) as log:
            code = launch([str(LAUNCHER), *flags], log)
        if code == EXIT_INTERRUPTED:
            print("stopped; rerunning the command resumes the sweep")
            return EXIT_INTERRUPTED
        if code:
            failed.append(folder.name)
            print(f"  failed with exit code {code}; see {folder}.log", flush=True)
        write_table(workdir, table(workdir, runs), failed)
    print((workdir / "sweep.md").read_text(encoding="utf-8"))
    return 1 if failed else 0


@contextlib.contextmanager
def local_log(log: pathlib.Path) -> Iterator[pathlib.Path]:
    """Context manager for a log to append to: the file itself, or of an object in a bucket a copy.

    Args:
      log: the log.

    Yields:
      A local file, which is written to the bucket at the end.
    """
    if not is_bucket(log):
        yield log
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, log.name)
        copy.write_bytes(log.read_bytes() if log.exists() else b"")
        try:
            yield copy
        finally:
            log.write_bytes(copy.read_bytes())


def numbers(argument: str) -> list[int]:
    """Parses comma-separated integers for argparse: 0,1,2 gives [0, 1, 2]."""
    try:
        return [int(number) for number in argument.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{argument!r}: give whole numbers, such as 0,1,2"
        ) from None


def name_of(config: str) -> str:
    """Returns a config's name in the table: ph2-unet-bce for configs/ph2.py:unet,bce."""
    path, _, variant = config.partition(":")
    return re.sub(r"[^\w.]+", "-", f"{pathlib.Path(path).stem} {variant}".strip())


def table(workdir: pathlib.Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Tabulates the reports of a sweep.

    Args:
      workdir: folder of the sweep.
      runs: runs of the sweep; those without a report are left out.

    Returns:
      A row for each config: its name, its runs (seed and fold), the origin of their initial weights
      (`origin.summary`) and, by metric, each run's mean over the test images or, if that is the
      statistic to quote, the pooled value, and the confidence interval of their mean (`_interval`).
      Rows are ranked by the mean over the runs of the first prominent metric that they have, best
      first.

    Raises:
      UserError: a report is invalid.
    """
    rows: dict[str, dict[str, Any]] = {}
    reports: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        path = workdir / run.folder / "report.json"
        if not path.exists():
            continue
        report, name = read_json(path), name_of(run.config)
        means = _means(path, report)
        reports.setdefault(name, []).append(report)
        row = rows.setdefault(name, {"name": name, "config": run.config, "runs": [], "metrics": {}})
        row["runs"].append({"seed": run.seed, "fold": run.fold})
        for metric, value in means.items():
            row["metrics"].setdefault(metric, []).append(value)
    for name, row in rows.items():
        row["intervals"] = {metric: _interval(metric, reports[name]) for metric in row["metrics"]}
        row["initial"] = [*dict.fromkeys(filter(None, map(origin.summary, reports[name])))]
    return sorted(rows.values(), key=_rank)


def _interval(metric: str, reports: Sequence[dict[str, Any]]) -> list[float] | None:
    """Returns the confidence interval of the mean over runs, or that of a single run's report.

    The runs are resampled together: each draw has the same images of every run. The interval
    therefore shows how the mean depends on the test images, not on the seeds.

    Args:
      metric: its key.
      reports: the runs' reports.

    Returns:
      [low, high]; None if the runs have different images, as folds do, if the statistic is pooled
      over the images of several runs, or if the reports lack intervals.
    """
    statistic = METRICS[metric].statistic
    intervals = [interval_of(report["aggregate"].get(metric, {}), statistic) for report in reports]
    if len(reports) == 1 or None in intervals:
        return intervals[0] if len(reports) == 1 else None
    images = [rows_of(report, "per_image") for report in reports]
    if statistic == "pooled" or any(rows.keys() != images[0].keys() for rows in images):
        return None
    columns = [[rows[name].get(metric) for name in images[0]] for rows in images]
    means = bootstrap.means_of_draws(np.array(columns, np.float64).T).mean(1, keepdims=True)
    return bootstrap.percentiles(means)[0].tolist()


def _means(path: pathlib.Path, report: Any) -> dict[str, float | None]:
    """Returns the prominent metrics of a report. Raises UserError if it is invalid."""
    try:
        means = {
            metric.key: values[metric.statistic]
            for metric in by_prominence()
            if (values := report["aggregate"].get(metric.key))
        }
        if means and all(value is None or math.isfinite(value) for value in means.values()):
            return means
    except (AttributeError, KeyError, OverflowError, TypeError):
        pass
    raise UserError(f"{path}: no report of a run; write it again by --mode=eval --workdir=...")


def _rank(row: dict[str, Any]) -> float:
    """Returns a number by which the best config is first, and one without a value is last."""
    metric = next(metric for metric in by_prominence() if metric.key in row["metrics"])
    mean = _mean(row["metrics"][metric.key])
    if math.isnan(mean):
        return math.inf
    return -mean if metric.better == "higher" else mean


def _mean(values: Sequence[float | None]) -> float:
    """Returns the mean of the values that are defined; NaN if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def write_table(workdir: pathlib.Path, rows: list[dict[str, Any]], failed: list[str]) -> None:
    """Writes `sweep.json`, `sweep.md` and `sweep.png`; `failed` names the failed runs."""
    write_json(workdir / "sweep.json", {"rows": rows, "failed": failed})
    known = {metric for row in rows for metric in row["metrics"]}
    metrics = [metric.key for metric in by_prominence() if metric.key in known]
    heads = ["config", "runs", *map(label, metrics)]
    lines = [f"| {' | '.join(heads)} |", "| --- | ---: |" + " ---: |" * len(metrics)]
    for row in rows:
        cells = [_cell(row["metrics"].get(m, []), row["intervals"].get(m)) for m in metrics]
        lines.append(f"| {in_markdown(row['name'])} | {len(row['runs'])} | {' | '.join(cells)} |")
    notes = [
        "Test split, best first; means over the images (mean IoU: pooled over them), then over "
        "the runs, with the lowest and the highest run."
    ]
    if any(interval for row in rows for interval in row["intervals"].values()):
        notes.append(
            "In brackets, the 95 % confidence interval of the mean over the runs: a percentile "
            "bootstrap over the test images, which every run of a config shares."
        )
    notes += [
        f"Initial weights of {in_markdown(row['name'])}: {in_markdown(' | '.join(row['initial']))}."
        for row in rows
        if row["initial"] not in ([], ["random"])
    ]
    notes += [f"Failed: {name}; see {name}.log." for name in map(in_markdown, failed)]
    page = "\n".join(lines) + "\n\n" + "\n".join(notes) + "\n"
    drawn = rendered({workdir / "sweep.png": lambda: png(plot(rows))})
    write_all({workdir / "sweep.md": page.encode(), **drawn})


def _cell(values: Sequence[float | None], interval: Sequence[float] | None = None) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{_mean(known):.4f}"
    if len(known) > 1:
        mean += f" ({min(known):.4f} – {max(known):.4f})"
    return f"{mean} {bracketed(interval)}".strip()


def plot(rows: list[dict[str, Any]]) -> Figure:
    """Draws each run as a point and each config's mean as a bar, with the best config on top."""
    figure = Figure(figsize=(7, 1 + 0.4 * max(len(rows), 1)), layout="constrained")
    axes = figure.subplots()
    if not rows:
        axes.text(0.5, 0.5, "no run has ended yet", transform=axes.transAxes, ha="center")
        return figure
    metric = next(m for m in by_prominence() if m.key in rows[0]["metrics"]).key
    for place, row in enumerate(rows):
        values = [v for v in row["metrics"].get(metric, []) if v is not None]
        axes.plot(values, [-place] * len(values), "o", color=BLUE)
        axes.plot([_mean(values)], [-place], "|", color=BLUE, markersize=18)
    names = [in_figure(row["name"], 40) for row in rows]
    axes.set_yticks([-place for place in range(len(rows))], names)
    axes.set(xlabel=f"{label(metric)}, mean over test images; a point for each run")
    axes.grid(alpha=0.25)
    return figure


if __name__ == "__main__":
    make_streams_robust()
    sys.exit(main(sys.argv[1:]))
