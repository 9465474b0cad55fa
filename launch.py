"""python launch.py --config=configs/isbi.py [--workdir=...] [--mode=train|eval|...] ..."""

import contextlib
import os
import pathlib
import sys
import tempfile
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from unet_jax.core import commandline
from unet_jax.core.errors import EXIT_INTERRUPTED, UserError, print_error
from unet_jax.core.files import expand, expand_utf8
from unet_jax.core.streams import make_streams_robust

MODES = ("train", "eval", "inspect", "predict", "export")
# The modes that use each flag; the other modes reject it. All modes use the flags not listed.
USES = {
    "config": ("train", "eval", "inspect"),
    "split": ("eval",),
    "checkpoint": ("eval", "predict", "export"),
    "tta": ("eval", "predict"),
    "ensemble": ("eval", "predict"),
    "input": ("predict",),
    "output": ("predict", "export"),
    "probabilities": ("predict",),
    "overlays": ("predict",),
    "tile": ("predict",),
    "coordinator": ("train", "eval"),
    "num_processes": ("train", "eval"),
    "process_id": ("train", "eval"),
}
config_flags.DEFINE_config_file("config", None, "The experiment: configs/NAME.py[:VARIANT].")
flags.DEFINE_string("workdir", None, "The run's folder (default: runs/NAME of the config).")
flags.DEFINE_enum("mode", "train", MODES, "What to do (see the README).")
flags.DEFINE_string("split", "test", "What to evaluate: train, validation, test, ...")
flags.DEFINE_string("checkpoint", "best", "Which one: best, last or a step.")
flags.DEFINE_bool("tta", False, "Average over the symmetries that training drew.")
flags.DEFINE_multi_string("ensemble", [], "A further run to average with; may be repeated.")
flags.DEFINE_string("input", None, "What to predict: a file, a folder or a pattern.")
flags.DEFINE_string("output", None, "The folder to write.")
flags.DEFINE_bool("probabilities", False, "Also write probabilities, float32 TIFF.")
flags.DEFINE_bool("overlays", False, "Also draw the masks on the images.")
flags.DEFINE_integer("tile", 1024, "Side of the tiles of larger images, pixels.", lower_bound=1)
flags.DEFINE_string("coordinator", None, "Of many hosts: HOST:PORT of process 0, or [IPV6]:PORT.")
flags.DEFINE_integer(
    "num_processes",
    None,
    "Of many hosts: how many there are. 1 runs on this host alone, also inside a SLURM, Open MPI, "
    "Kubernetes or Cloud TPU job, whose hosts JAX would otherwise look for and join.",
)
flags.DEFINE_integer("process_id", None, "Of many hosts: which one this is, from 0.")
FLAGS = flags.FLAGS
for flag, modes in USES.items():
    FLAGS[flag].help += f" ({', '.join(modes)})"


def main(_: list[str]) -> None:
    """Runs the selected mode and sets the exit code of the command."""
    sys.unraisablehook = show_unraisable
    try:
        {"predict": predict_files, "export": export_network}.get(FLAGS.mode, run)()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:  # Ctrl-C before a state was saved, or a second Ctrl-C
        print("stopped at once; rerunning the command resumes it from what is saved")
        sys.exit(EXIT_INTERRUPTED)


def run() -> None:
    """Trains, evaluates or inspects the experiment of `--config` or `--workdir`."""
    # Imported here, so that --help and a mistyped flag need not wait for jax.
    from unet_jax import data
    from unet_jax.core.compilation import keep_compiled
    from unet_jax.core.faults import explained
    from unet_jax.core.stop import Interrupted
    from unet_jax.distributed import devices, hosts
    from unet_jax.evaluation.evaluate import evaluate
    from unet_jax.evaluation.inspection import inspect
    from unet_jax.evaluation.scores import mean_scalars
    from unet_jax.runs import folder as run_folder
    from unet_jax.runs.experiment import check, read_configs, resolve
    from unet_jax.training.capacity import check_fits
    from unet_jax.training.loop import train

    config = FLAGS.config
    if config is not None:
        check(config)
        folder = pathlib.Path(expand_utf8(FLAGS.workdir or f"runs/{config.name}"))
    elif FLAGS.mode == "train" or FLAGS.workdir is None:
        raise UserError("no --config: which experiment? See configs/, or try configs/demo.py")
    else:
        folder = pathlib.Path(expand_utf8(FLAGS.workdir))

    with contextlib.ExitStack() as stack:
        if FLAGS.mode != "inspect":
            stack.enter_context(
                hosts.joined(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
            )
            if not hosts.is_first():  # only the first host uses the folder and prints
                folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
                silence = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
        stack.enter_context(explained(folder))
        if config is None:
            (config,) = read_configs([folder]).values()
        others = read_configs(FLAGS.ensemble)
        if FLAGS.mode == "eval":
            config.data.download = False  # evaluation must write only to the run's folder
        config.data.root = expand_utf8(config.data.root)
        dataset = data.open_dataset(config.data)
        for note in dataset.notes:
            print(f"note         {note}")
        recorded = hosts.on_first(lambda: run_folder.recorded_dtype(folder))
        config = resolve(config, dataset.classes, recorded)
        hosts.on_first(lambda: run_folder.check_ours(folder, config))
        if FLAGS.mode == "inspect":
            inspect(config, dataset, folder)
            print(f"inspection.json and figures/inspection.png are in {folder}")
            return
        keep_compiled()
        mesh = devices.local_mesh()
        check_fits(config, dataset, mesh, training=FLAGS.mode == "train")
        try:
            if FLAGS.mode == "train":
                report = train(config, dataset, folder, mesh)
            else:
                report = evaluate(
                    {folder: config} | others,
                    dataset,
                    mesh,
                    split=FLAGS.split,
                    checkpoint=FLAGS.checkpoint,
                    symmetries=FLAGS.tta,
                )
        except Interrupted:
            print(f"stopped; the state is saved in {folder}, and the same command goes on")
            sys.exit(EXIT_INTERRUPTED)
        print(f"{report['split']}, checkpoint of step {report['step']}, mean over images:")
        print("  ".join(f"{name} {value:.4f}" for name, value in mean_scalars(report).items()))
        print(f"reports and pictures are in {folder}")


def predict_files() -> None:
    """Predicts the files of `--input` and exits with code 1 if any of them failed."""
    from unet_jax.core.faults import explained
    from unet_jax.core.stop import Interrupted, ended_by_signals

    if None in (FLAGS.workdir, FLAGS.input, FLAGS.output):
        raise UserError("--mode=predict takes --workdir, --input and --output")
    output = pathlib.Path(expand(FLAGS.output))
    stopped = "stopped; finished files are kept, and rerunning the command resumes it"
    try:
        with ended_by_signals(stopped), explained(output):
            from unet_jax.core.compilation import keep_compiled
            from unet_jax.distributed import devices
            from unet_jax.inference.predict import predict
            from unet_jax.runs.experiment import read_configs

            keep_compiled()
            bad = predict(
                read_configs([FLAGS.workdir, *FLAGS.ensemble]),
                devices.local_mesh(),
                wanted=expand(FLAGS.input),
                output=output,
                checkpoint=FLAGS.checkpoint,
                side=FLAGS.tile,
                probabilities=FLAGS.probabilities,
                overlays=FLAGS.overlays,
                symmetries=FLAGS.tta,
            )
    except Interrupted:
        print(stopped)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(1 if bad else 0)


def export_network() -> None:
    """Exports the network of a run as StableHLO."""
    from unet_jax.core.faults import explained
    from unet_jax.interchange.stablehlo import export_run
    from unet_jax.runs.experiment import read_configs

    if None in (FLAGS.workdir, FLAGS.output):
        raise UserError("--mode=export takes --workdir and --output")
    ((folder, config),) = read_configs([FLAGS.workdir]).items()
    output = pathlib.Path(expand(FLAGS.output))
    with explained(output):
        export_run(folder, config, checkpoint=FLAGS.checkpoint, output=output)
    print(f"the network is in {output}; python {output}/load.py images.npy masks.npy applies it")


def show_unraisable(unraisable: Any) -> None:
    """Reports an unraisable exception, unless it is from orbax's pending I/O after a failure."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line and loads the config; exits with a one-line message on an error."""
    # Orbax logs every file that it accesses, and a traceback for each exception that it raises.
    logging.set_verbosity(logging.FATAL)
    try:
        commandline.parse(FLAGS, argv)
        commandline.check_mode(FLAGS, USES, FLAGS.mode)
    except UserError as error:
        fail(str(error))
    return argv[:1]


def fail(message: str) -> NoReturn:
    """Prints the error and exits with the code for user errors."""
    sys.exit(print_error(message))


if __name__ == "__main__":
    make_streams_robust()
    app.run(main, flags_parser=parse_flags)
