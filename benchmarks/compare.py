"""Trains this project and its PyTorch twin side by side: accuracy, speed and memory in one table.

python -m benchmarks.compare --config=configs/isbi.py:small,flips --seeds=0,1 --out=comparisons/isbi

For each seed, both frameworks start from the same weights and train on the same batches in the same
order, and the same code evaluates them. Rerunning the command resumes it: finished runs are kept.
`--run=RUN` instead of `--config` takes the config of a run. `--config.FIELD=VALUE` applies to both.
OUT gets a run folder for each framework and seed, `comparison.json`, `comparison.md` and
`curves.png`.

Images/s are measured by `benchmarks.pytorch.throughput`, both frameworks interleaved; the time to
the first step and the memory by `benchmarks.pytorch.footprint`, each in a process of its own. They
are measured once, after the runs, and kept in `speed.json`; delete that file to measure again.
"""

import pathlib
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from benchmarks.pytorch import throughput
from benchmarks.pytorch.train_twin import REQUIRED, open_config
from benchmarks.timing import environment
from unet_jax.core.bucket import is_bucket
from unet_jax.core.command_help import command_parser, describe_config
from unet_jax.core.config import digest, flatten
from unet_jax.core.errors import EXIT_INTERRUPTED, UserError, print_error
from unet_jax.core.files import read_json, write_all, write_json
from unet_jax.core.streams import make_streams_robust
from unet_jax.data.dataset import Dataset
from unet_jax.reporting.charts import png
from unet_jax.reporting.colours import BLUE, VERMILION
from unet_jax.reporting.launching import LAUNCHER, launch
from unet_jax.reporting.sections import label, statistic
from unet_jax.reporting.sweep import check_planned, numbers
from unet_jax.runs.experiment import read_configs
from unet_jax.runs.folder import check_ours
from unet_jax.runs.log import read_history

NAMES = {"jax": "JAX", "torch": "PyTorch"}
COLOURS = {"jax": BLUE, "torch": VERMILION}
CONFIG_OF_RUN = '''"""The config of a run."""

from unet_jax.runs.experiment import read_configs


def get_config():
    (config,) = read_configs([{!r}]).values()
    return config
'''
COMMANDS = {"jax": [str(LAUNCHER)], "torch": ["-m", "benchmarks.pytorch.train_twin"]}
SPEEDS = {
    "train_with_input": "training, images/s, with the input pipeline",
    "train_alone": "training, images/s, one batch repeated",
    "inference_with_input": "inference, images/s, with the input pipeline",
    "inference_alone": "inference, images/s, one batch repeated",
    "first_step_seconds": "time to the first training step, s, nothing compiled before",
    "peak_memory_mib": "peak memory of training steps, MiB",
}


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns 0, 75 (interrupted) or 2 (user error, or a run failed)."""
    parser = command_parser("python -m benchmarks.compare", __doc__)
    parser.add_argument(
        "--seeds", type=numbers, default="0,1", help="seeds of the runs, such as 0,1,2"
    )
    parser.add_argument("--run", help="a run whose config both get, instead of --config")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write")
    parser.add_argument("--compile", default="default", help="mode of torch.compile; '' is eager")
    describe_config(parser)
    options, arguments = parser.parse_known_args(arguments)
    seeds = options.seeds
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        own = "--config="
        if options.run:
            if any(argument.startswith(own) for argument in arguments):
                raise UserError(f"--run={options.run}: has a config; leave --config out")
            arguments = [*config_of_run(options.run, options.out), *arguments]
        others = [argument for argument in arguments if not argument.startswith(own)]
        check_planned([a.removeprefix(own) for a in arguments if a.startswith(own)], others)
        config, dataset = open_config(arguments)
        for round_number, seed in enumerate(seeds):
            # Alternating the order keeps one framework from always having the warmer machine.
            for framework in list(NAMES)[:: 1 if round_number % 2 == 0 else -1]:
                mode = [f"--compile={options.compile}"] if framework == "torch" else []
                folder = options.out / f"{framework}-seed{seed}"
                config.seed = seed
                if (folder / "report.json").exists():
                    check_ours(folder, config)
                    continue
                flags = [*arguments, *mode, f"--config.seed={seed}", f"--workdir={folder}"]
                print(f"{folder}: training; the progress is in {folder.name}.log", flush=True)
                code = launch(
                    [*COMMANDS[framework], *flags], folder.with_name(f"{folder.name}.log")
                )
                if code == EXIT_INTERRUPTED:
                    raise KeyboardInterrupt
                if code:
                    raise UserError(f"{folder}: failed with exit code {code}; see {folder}.log")
        content: dict[str, Any] = {
            "config": config.name,
            "digest": digest(config),
            "command": shlex.join(["python", "-m", "benchmarks.compare", *sys.argv[1:]]),
            "commit": commit(),
            "seeds": seeds,
            **environment(),
            "accuracy": accuracy(options.out, seeds),
        }
        write(options.out, content)
        content["speed"] = speeds(options.out, arguments, config, dataset, options.compile)
    except UserError as error:
        return print_error(str(error))
    except KeyboardInterrupt:
        print("interrupted; rerunning the command resumes it")
        return EXIT_INTERRUPTED
    print(write(options.out, content))
    return 0


def config_of_run(run: str, out: pathlib.Path) -> list[str]:
    """Returns the arguments that give both frameworks the config of a run.

    What the PyTorch twin does not support, such as the EMA of the weights, is left out for both.

    Args:
      run: the run's folder.
      out: the folder of the comparison; it gets a file that reads the run's config.

    Raises:
      UserError: the folder is not that of a run.
    """
    ((folder, config),) = read_configs([run]).items()
    file = out.absolute() / "config.py"
    code = CONFIG_OF_RUN.format(str(folder if is_bucket(folder) else folder.absolute()))
    write_all({file: code.encode()})
    fields = {name: tuple(x) if isinstance(x, list) else x for name, x in flatten(config).items()}
    left_out = {n: x for n, x in REQUIRED.items() if fields.get(n, x) != x}
    for name, required in left_out.items():
        print(
            f"note         {name}={fields[name]} of the run is {required!r} here, for both: "
            f"PyTorch's side does not support it"
        )
    return [f"--config={file}", *(f"--config.{name}={x}" for name, x in left_out.items())]


def write(out: pathlib.Path, content: Mapping[str, Any]) -> str:
    """Writes the comparison, which may not have the speed yet; returns the page."""
    histories = {
        (framework, seed): read_history(out / f"{framework}-seed{seed}")
        for framework in NAMES
        for seed in content["seeds"]
    }
    page, curves = write_page(content), png(plot_curves(histories))
    write_json(out / "comparison.json", content)
    write_all({out / "comparison.md": page.encode(), out / "curves.png": curves})
    return page


def commit() -> str:
    """Returns the commit of this code, with a plus sign if tracked files were changed."""
    root = LAUNCHER.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def accuracy(out: pathlib.Path, seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Returns, by metric and framework, the mean over the test images for each seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for framework in NAMES:
        for seed in seeds:
            report = read_json(out / f"{framework}-seed{seed}" / "report.json")
            for metric, values in report["aggregate"].items():
                value = values[statistic(metric)]
                if value is not None:
                    found.setdefault(metric, {}).setdefault(framework, []).append(value)
    return found


def speeds(
    out: pathlib.Path, arguments: Sequence[str], config: ConfigDict, dataset: Dataset, mode: str
) -> dict[str, dict[str, float]]:
    """Returns speed and memory by measure and framework; results in `speed.json` are reused."""
    path = out / "speed.json"
    if path.exists():
        return read_json(path)
    found: dict[str, dict[str, float]] = {}
    print("memory and compile time: one framework after the other, a few minutes", flush=True)
    for framework in NAMES:
        result = out / f"footprint-{framework}.json"
        flags = [framework, *arguments, f"--compile={mode}", f"--out={result}"]
        code = launch(["-m", "benchmarks.pytorch.footprint", *flags], result.with_suffix(".log"))
        if code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise UserError(f"{result}: failed with exit code {code}; see its log")
        for measure, value in read_json(result).items():
            found.setdefault(measure, {})[framework] = value
    print("images per second: both frameworks in turns, a few minutes", flush=True)
    found |= throughput.measure(config, dataset, mode)
    write_json(path, found)
    return found


def write_page(content: Mapping[str, Any]) -> str:
    """Returns the tables in Markdown."""

    def cell(values: Sequence[float]) -> str:
        return f"{statistics.mean(values):.4f} ({min(values):.4f} – {max(values):.4f})"

    count = len(content["seeds"])
    lines = [
        f"# {content['config']}: JAX and PyTorch",
        "",
        f"`{content['command']}` at {content['commit']}, {content['device']}, "
        f"{content['cores']} cores, "
        + ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
        "",
        f"Test split, means over the images, then over {count} seed{'s' * (count != 1)} (lowest – "
        "highest seed). Same initial weights, same batches, same evaluation code.",
        "",
        "| metric | JAX | PyTorch | difference of the means |",
        "| --- | ---: | ---: | ---: |",
    ]
    for metric, values in content["accuracy"].items():
        difference = statistics.mean(values["jax"]) - statistics.mean(values["torch"])
        row = [label(metric), cell(values["jax"]), cell(values["torch"]), f"{difference:+.4f}"]
        lines.append(f"| {' | '.join(row)} |")
    if "speed" not in content:
        return "\n".join([*lines, "", "Speed and memory are not measured yet.", ""])
    lines += ["", "| | JAX | PyTorch | JAX / PyTorch |", "| --- | ---: | ---: | ---: |"]
    for measure, meaning in SPEEDS.items():
        ours, theirs = (content["speed"][measure][framework] for framework in NAMES)
        lines.append(f"| {meaning} | {ours:.3g} | {theirs:.3g} | {ours / theirs:.2f} |")
    return "\n".join([*lines, "", "![curves](curves.png)", ""])


def plot_curves(histories: dict[tuple[str, int], list[dict[str, Any]]]) -> Figure:
    """Plots the training and validation losses of all runs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    styles = ("-", "--", ":", "-.")
    for axes, split in zip(panels, ("train", "validation"), strict=True):
        for (framework, seed), history in histories.items():
            points = [(line["step"], line["loss"]) for line in history if line["split"] == split]
            if points:
                style = styles[seed % len(styles)]
                name = f"{NAMES[framework]}, seed {seed}"
                colour = COLOURS[framework]
                axes.plot(*zip(*points, strict=True), style, color=colour, label=name, alpha=0.8)
        axes.set(title=f"{split} loss", xlabel="step (optimizer updates)", ylabel="loss (no unit)")
        axes.grid(alpha=0.25)
        if axes.lines:
            axes.legend(fontsize="small")
        else:
            axes.text(0.5, 0.5, f"no {split}", transform=axes.transAxes, ha="center")
    return figure


if __name__ == "__main__":
    make_streams_robust()
    sys.exit(main(sys.argv[1:]))
