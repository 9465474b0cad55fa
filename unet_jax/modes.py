"""The modes of `launch.py`: each opens the run and its data, calls one function, prints the result.

Importing this module imports jax.
"""

import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from unet_jax.api import load_run
from unet_jax.core.bucket import is_bucket
from unet_jax.core.compilation import keep_compiled, release_memory_after_compiling
from unet_jax.core.errors import EXIT_INTERRUPTED, UserError
from unet_jax.core.faults import explained
from unet_jax.core.files import expand, path_of, run_path
from unet_jax.core.stop import Interrupted
from unet_jax.data.download.mirror import local_inputs, local_path
from unet_jax.data.files.inputs import SUFFIXES
from unet_jax.distributed import devices, hosts, platform
from unet_jax.evaluation import evaluate as evaluation
from unet_jax.evaluation.scores import scores_line
from unet_jax.evaluation.thresholds import rule_of
from unet_jax.inference import predict as prediction
from unet_jax.inference.outputs import Extras
from unet_jax.interchange.registry import find_exporter
from unet_jax.metrics.registry import METRICS
from unet_jax.reporting.sections import cell, dash, headline, interval_of
from unet_jax.runs.experiment import check, open_data, open_labelled_data, read_configs
from unet_jax.runs.folder import recorded_cpu_devices
from unet_jax.training import loop, planning
from unet_jax.training.capacity import check_fits

# The arguments of `hosts.joined`: coordinator, number of processes, index of this process.
Cluster = tuple[str | None, int | None, int | None]
# An experiment, or the fields that change the config of the run in the folder.
Config = ConfigDict | Mapping[str, Any]
ABOUT = ("author", "license", "cite")  # flags that only some export formats use
NO_CONFIG = "no --config: which experiment? See configs/, or try configs/demo.py"


def run(options: flags.FlagValues) -> int:
    """Runs the mode that the flags of `launch.py` select; returns the exit code."""
    release_memory_after_compiling()
    with platform.selected(options.platform):
        return _run(options)


def _run(options: flags.FlagValues) -> int:
    cluster = options.coordinator, options.num_processes, options.process_id
    if options.mode == "train":
        train(options.config, options.workdir, cluster, options.init_from)
    elif options.mode == "eval":
        evaluate(
            options.config,
            options.workdir,
            options.ensemble,
            cluster,
            split=options.split,
            checkpoint=options.checkpoint,
            tta=options.tta,
            data=_other_data(options),
        )
    elif options.mode == "inspect":
        inspect(options.config, options.workdir)
    elif options.mode == "export":
        about = {name: options[name].value for name in ABOUT if options[name].present}
        export(options.workdir, options.format, options.checkpoint, options.output, about)
    else:
        failed = predict(
            [options.workdir, *options.ensemble],
            options.input,
            options.output,
            checkpoint=options.checkpoint,
            tile=options.tile,
            extras=Extras(
                probabilities=options.probabilities,
                overlays=options.overlays,
                geojson=options.geojson,
                gallery=options.gallery,
            ),
            tta=options.tta,
        )
        return 1 if failed else 0
    return 0


def train(
    config: ConfigDict | None, workdir: str | None, cluster: Cluster, init_from: str | None = None
) -> None:
    """Trains an experiment, or resumes its run.

    Args:
      config: the experiment.
      workdir: the run's folder; by default runs/NAME, with the config's name.
      cluster: how to join the other hosts.
      init_from: another run, RUN or RUN:STEP, from whose weights a new run starts.

    Raises:
      SystemExit: a signal stopped the run; its state is saved.
      UserError: there is no config, or the experiment cannot be trained.
    """
    if config is None:
        raise UserError(NO_CONFIG)
    with _run_folder(config, workdir, cluster) as folder:
        wanted = config.cpu_devices
        if hosts.count() == 1:
            wanted = wanted or recorded_cpu_devices(folder)
            devices.use_cores(_micro_batch(config), wanted)
        keep_compiled()
        mesh = devices.local_mesh()
        config, dataset = open_data(config, folder, planning.plan)
        config.cpu_devices = used = devices.cpu_devices(mesh)
        if wanted and used and wanted != used:
            print(
                f"note         cpu_devices={wanted} has no effect, because the environment or the "
                f"number of hosts determines {used}; the results differ by rounding"
            )
        check_fits(config, dataset, mesh, training=True)
        _print_scores(loop.train(config, dataset, folder, mesh, init_from), folder)


def evaluate(
    config: Config | None,
    workdir: str | None,
    ensemble: Sequence[str],
    cluster: Cluster,
    *,
    split: str,
    checkpoint: str,
    tta: bool,
    data: str | None,
) -> None:
    """Evaluates a run, or an ensemble of runs, on a split or on any labelled folder.

    Args:
      config: the experiment; by default the config in the run's folder, of which fields by dotted
        name change the values.
      workdir: the run's folder; by default runs/NAME, with the config's name.
      ensemble: folders of further runs to average with.
      cluster: how to join the other hosts.
      split: name of the split.
      checkpoint: `best`, `last` or a step.
      tta: whether to average over the training symmetries (test-time augmentation).
      data: a labelled folder to evaluate instead of the split, or None.

    Raises:
      UserError: a run or the data set is missing or unusable.
    """
    with _run_folder(config, workdir, cluster) as folder:
        hosts.on_first(lambda: _check_distinct([folder, *ensemble]))
        config, others = _config(config, folder), read_configs(ensemble)
        config.data.download = False  # evaluation must write only to the run's folder
        if hosts.count() == 1:
            devices.use_cores(config.eval.batch_size, config.cpu_devices)
        keep_compiled()
        mesh = devices.local_mesh()
        if data is None:
            config, dataset = open_data(config, folder, evaluated=True)
        else:
            config, dataset = open_labelled_data(config, folder, local_path(data))
            (split,) = dataset.sha256
        check_fits(config, dataset, mesh, training=False)
        report = evaluation.evaluate(
            {folder: config} | others,
            dataset,
            mesh,
            split=split,
            checkpoint=checkpoint,
            symmetries=tta,
            other_data=data is not None,
        )
        _print_scores(report, folder)


def inspect(config: Config | None, workdir: str | None) -> None:
    """Inspects the data set of an experiment; see `evaluate` for the arguments."""
    from unet_jax.evaluation import inspection  # its import of matplotlib takes a second

    with _run_folder(config, workdir) as folder:
        config = _config(config, folder)
        devices.use_cores(_micro_batch(config), config.cpu_devices)
        keep_compiled()
        devices.local_mesh()  # raises an error if the platform is missing
        config, dataset = open_data(config, folder, planning.plan)
        inspection.inspect(config, dataset, folder)
        print(f"inspection.json and figures/inspection.png are in {folder}")


def _micro_batch(config: ConfigDict) -> int:
    """Returns the images of a micro-batch, or `planning.DEVICES_OF` if the batch is planned."""
    return (config.batch_size or 0) // (config.optim.accumulate or 1) or planning.DEVICES_OF


def predict(
    runs: Sequence[str],
    wanted: str,
    output: str,
    *,
    checkpoint: str,
    tile: int,
    extras: Extras,
    tta: bool,
) -> int:
    """Predicts files with a run or an ensemble of runs; returns the number of files that failed.

    Args:
      runs: folders of the runs.
      wanted: the images: a file, a folder or a pattern.
      output: the folder to write.
      checkpoint: `best`, `last` or a step.
      tile: side of the tiles that larger images are split into, pixels.
      extras: what to write besides the masks.
      tta: whether to average over the training symmetries (test-time augmentation).

    Raises:
      Interrupted: a signal requested a stop; finished files are complete.
      UserError: the images, a run or the folder cannot be used.
    """
    folder = path_of(output)
    local = local_inputs(wanted, output, SUFFIXES) if is_bucket(wanted) else expand(wanted)
    with explained(folder):
        _check_distinct(runs)
        keep_compiled()
        configs = read_configs(runs)
        devices.use_cores(next(iter(configs.values())).eval.batch_size)
        return prediction.predict(
            configs,
            devices.local_mesh(),
            wanted=local,
            output=folder,
            checkpoint=checkpoint,
            side=tile,
            extras=extras,
            title=wanted,
            symmetries=tta,
        )


def export(workdir: str, name: str, checkpoint: str, output: str, about: Mapping[str, Any]) -> None:
    """Exports the network of a run; see `Run.export`.

    Args:
      workdir: the run's folder.
      name: the format.
      checkpoint: `best`, `last` or a step.
      output: the folder to write.
      about: values of the flags in `ABOUT` that are given.

    Raises:
      UserError: the run cannot be loaded or exported.
    """
    find_exporter(name, about)  # raises an error before the run is loaded
    devices.local_mesh()  # raises an error if the platform is missing
    print(load_run(workdir, checkpoint).export(output, format=name, **about))


@contextlib.contextmanager
def _run_folder(
    config: Config | None, workdir: str | None, cluster: Cluster | None = None
) -> Iterator[pathlib.Path]:
    """Context manager in which this host uses a run's folder.

    Joins the other hosts if there is a `cluster`. Only the first host uses the run's folder and
    prints; each other host gets a temporary folder. A stop request ends the process, and external
    faults become a `UserError`.
    """
    if isinstance(config, ConfigDict):
        check(config, may_be_open=True)
        workdir = workdir or f"runs/{config.name}"
    if not workdir:
        raise UserError(NO_CONFIG)
    folder = run_path(workdir)
    with contextlib.ExitStack() as stack:
        if cluster is not None:
            stack.enter_context(hosts.joined(*cluster))
            if not hosts.is_first():
                folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
                silence = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
        stack.enter_context(explained(folder))
        try:
            yield folder
        except Interrupted:
            print(f"stopped; the state is saved in {folder}; rerunning the command resumes it")
            sys.exit(EXIT_INTERRUPTED)  # `hosts.joined` leaves the other hosts in order


def _check_distinct(runs: Sequence[str | pathlib.Path]) -> None:
    """Raises a `UserError` if an ensemble has a run twice, which would be averaged only once."""
    places = []
    for path in (run_path(str(run)) for run in runs):
        place = path if is_bucket(path) else path.resolve()
        if place in places:
            raise UserError(f"--ensemble={path}: this run is given twice; give each run once")
        places.append(place)


def _other_data(options: flags.FlagValues) -> str | None:
    """Returns `--data`; raises if there is `--split` too, because all its images are one split."""
    if options.data is not None and options["split"].present:
        raise UserError(f"--split={options.split}: --data has no splits; leave one of them out")
    return options.data


def _config(config: Config | None, folder: pathlib.Path) -> ConfigDict:
    """Returns the given config or, if there is none, that of the run in `folder`, changed."""
    if isinstance(config, ConfigDict):
        return config
    saved = read_configs([folder])[folder]
    if config:
        with saved.unlocked():
            saved.update_from_flattened_dict(config)
        check(saved)
    return saved


def _print_scores(report: dict[str, Any], folder: pathlib.Path) -> None:
    print(f"{report['split']}, checkpoint of step {report['step']}, mean over images:")
    print(scores_line(report))
    metric = headline(report)
    values = report["aggregate"][metric.key]
    if interval := interval_of(values, metric.statistic):
        name = metric.quoted(metric.label)
        print(
            f"{name}: {cell(values[metric.statistic])}, 95 % confidence interval {dash(interval)} "
            f"over {len(report['per_image'])} images"
        )
    tuned = {rule_of(metric): metric for metric in METRICS.values()}
    for row in report.get("thresholds", ()):
        if metric := tuned.get(row["rule"]):
            # `eval.metrics` may lack the group of a metric that was tuned in training.
            value = f": {metric.title} {cell(row[metric.key])} here" if metric.key in row else ""
            print(f"threshold {cell(row['threshold'])}, {row['rule']}{value}")
    print(f"reports and pictures are in {folder}")
