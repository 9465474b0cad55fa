"""python launch.py --config=configs/isbi.py [--workdir=...] [--mode=train|eval|...] ..."""

import contextlib
import functools
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from unet_jax.core.errors import EXIT_INTERRUPTED, UserError, print_error, show_unraisable
from unet_jax.core.stop import Interrupted, ended_by_signals
from unet_jax.core.streams import make_streams_robust
from unet_jax.core.tuning import restart_with_huge_pages
from unet_jax.runs import commandline, launch_help

MODES = ("train", "eval", "inspect", "predict", "export")
# The modes that use each flag; the other modes reject it. All modes use the flags not listed.
USES = {
    name: tuple(modes.split())
    for modes, names in {
        "train": "init_from",
        "train eval": "coordinator num_processes process_id",
        "train eval inspect": "config",
        "eval": "split data",
        "eval predict": "tta ensemble",
        "eval predict export": "checkpoint",
        "predict": "input probabilities overlays geojson gallery tile",
        "predict export": "output",
        "export": "format author license cite",
    }.items()
    for name in names.split()
}
MODES_OF_RUNS = ("eval", "inspect")  # those that may change the config of the run in --workdir
NEEDS = {"predict": ("workdir", "input", "output"), "export": ("workdir", "output")}
STOPPED = "stopped; finished files are kept, and rerunning the command resumes it"


def define_flags(values: flags.FlagValues, argv: list[str] | None = None) -> None:
    """Defines the flags in `values`; the overrides of the config are in `argv` (`sys.argv`)."""
    string, boolean, integer, multi_string = (
        functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=values)
        for kind in ("string", "bool", "integer", "multi_string")
    )
    config_flags.DEFINE_config_file(
        "config", None, "Experiment, from the folder configs.", values, sys_argv=argv
    )
    string("workdir", None, "Folder of the run (default: runs/NAME of the config).")
    flags.DEFINE_enum(
        "mode", "train", MODES, "train, eval, inspect (the data), predict or export.", values
    )
    flags.DEFINE_enum("platform", None, commandline.PLATFORMS, "Compute on this or fail.", values)
    string("init_from", None, "Run whose weights a new run starts from: RUN[:best|last|STEP].")
    string("split", "test", "Split to evaluate: train, validation, test, ...")
    string("data", None, "Folder with images/ and masks/ to evaluate instead of a split.")
    string("checkpoint", "best", "The checkpoint to use.")
    boolean("tta", False, "Average over the training symmetries (TTA).")
    multi_string("ensemble", [], "Another run to average with; repeatable.")
    string("input", None, "Images to predict: a file, a folder or a pattern.")
    string("output", None, "Folder to write.")
    boolean("probabilities", False, "Also write the probabilities, as float32 TIFF.")
    boolean("overlays", False, "Also draw the masks on the images.")
    boolean("geojson", False, "Also write the outlines of the masks, for QuPath and others.")
    boolean("gallery", False, "Also write a page of thumbnails, and measurements as CSV.")
    integer("tile", 1024, "Side of the tiles of larger images, pixels.", lower_bound=1)
    string("format", "stablehlo", "onnx|onnx_float16|onnx_int8|pytorch|bioimageio.")
    multi_string("author", [], "Author of a package: 'NAME, AFFILIATION'; repeatable.")
    string("license", None, "Licence of a package: an SPDX identifier, such as CC-BY-4.0.")
    multi_string("cite", [], "What users of a package cite: 'TEXT, DOI or URL'; repeatable.")
    string("coordinator", None, "Address of process 0: HOST:PORT or [IPV6]:PORT.")
    integer("num_processes", None, "Number of processes; 1: this host alone.")
    integer("process_id", None, "Index of this process, from 0.")


def parse_flags(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line and loads the config; exits with a one-line message on an error."""
    if launch_help.is_requested(argv[1:]):
        print(launch_help.page(values, USES))
        sys.exit()
    try:
        commandline.parse(values, argv, MODES_OF_RUNS)
        commandline.check_mode(values, USES, values.mode)
        commandline.require(values, NEEDS.get(values.mode, ()), values.mode)
    except UserError as error:
        sys.exit(print_error(error))
    return argv[:1]


def main(_: list[str], values: flags.FlagValues = flags.FLAGS) -> int:
    """Runs the selected mode and returns the exit code of the command."""
    try:
        with contextlib.ExitStack() as stack:
            if values.mode == "predict":
                stack.enter_context(ended_by_signals(STOPPED))
            # Imports jax, for which --help and a mistyped flag need not wait.
            from unet_jax import modes

            return modes.run(values)
    except UserError as error:
        return print_error(error)
    except Interrupted:
        print(STOPPED)
    except KeyboardInterrupt:  # Ctrl-C before a state was saved, or a second Ctrl-C
        print("stopped at once; rerunning the command resumes it from what is saved")
    return EXIT_INTERRUPTED


define_flags(flags.FLAGS)

if __name__ == "__main__":
    restart_with_huge_pages()
    make_streams_robust()
    sys.unraisablehook = show_unraisable
    # Orbax logs every file that it accesses, and a traceback for each exception that it raises.
    logging.set_verbosity(logging.FATAL)
    app.run(main, flags_parser=parse_flags)
