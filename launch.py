"""python launch.py --config=configs/isbi.py [--workdir=...] [--mode=train|eval|inspect] ..."""

import pathlib
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from configs import base
from unet_jax.errors import EXIT_INTERRUPTED, UserError, print_error

config_flags.DEFINE_config_file("config", None, "The experiment: configs/NAME.py[:VARIANT].")
flags.DEFINE_string("workdir", None, "The run's folder (default: runs/NAME of the config).")
flags.DEFINE_enum("mode", "train", ["train", "eval", "inspect"], "What to do (see the README).")
flags.DEFINE_string("split", "test", "What --mode=eval evaluates: train, validation, test, ...")
flags.DEFINE_string("checkpoint", "best", "Which one --mode=eval takes: best, last or a step.")
FLAGS = flags.FLAGS


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # orbax tells of every file it touches
    try:
        run()
    except UserError as error:
        fail(str(error))


def run() -> None:
    # Imported here, so that --help and a mistyped flag need not wait for jax.
    from unet_jax import data, parallel, workdir
    from unet_jax.compilation import keep_compiled
    from unet_jax.config import check, resolve
    from unet_jax.evaluate import evaluate
    from unet_jax.inspection import inspect
    from unet_jax.scores import mean_scalars
    from unet_jax.stop import Interrupted
    from unet_jax.train import train

    if FLAGS.config is None:
        if FLAGS.mode == "train" or FLAGS.workdir is None:
            raise UserError("no --config: which experiment? See configs/, or try configs/demo.py")
        config = saved_config(workdir.read_config(pathlib.Path(FLAGS.workdir)))
    else:
        config = FLAGS.config
    check(config)
    folder = pathlib.Path(FLAGS.workdir or f"runs/{config.name}")
    dataset = data.DATASETS[config.data.name](config.data)
    for note in dataset.notes:
        print(f"note         {note}")
    config = resolve(config, dataset.classes)
    workdir.check_ours(folder, config)
    if FLAGS.mode == "inspect":
        inspect(config, dataset, folder)
        print(f"inspection.json and figures/inspection.png are in {folder}")
        return
    keep_compiled()
    mesh = parallel.local_mesh()
    try:
        if FLAGS.mode == "train":
            report = train(config, dataset, folder, mesh)
        else:
            report = evaluate(config, dataset, folder, mesh, FLAGS.split, FLAGS.checkpoint)
    except Interrupted:
        print(f"stopped; the state is saved in {folder}, and the same command goes on")
        sys.exit(EXIT_INTERRUPTED)
    print(f"{report['split']}, checkpoint of step {report['step']}, mean over images:")
    print("  ".join(f"{name} {value:.4f}" for name, value in mean_scalars(report).items()))
    print(f"reports and pictures are in {folder}")


def saved_config(fields: dict) -> ConfigDict:
    """A run's own config, in the types of `configs/base.py`."""
    from unet_jax.config import flatten

    config = base.get_config()
    known = flatten(config)
    if wrong := [name for name, value in fields.items() if name not in known or value is None]:
        raise UserError(
            f"the run's config.json is of another version ({wrong[0][:99]!r} is unknown or null)"
        )
    try:
        config.update_from_flattened_dict(
            {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the run's config.json is of another version ({error})") from error
    return config


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line and loads the config; what is wrong with them is one line."""
    try:
        rest = FLAGS(argv)
        if FLAGS.config is not None:
            FLAGS.config.to_dict()  # a file that cannot be loaded is only told of when it is used
        if rest[1:]:
            fail(f"{rest[1]!r}: every argument is --name=value; see --help")
        return rest
    except flags.Error as error:
        # Of a config that fails, the message is a whole traceback.
        fail(
            f"--config: {str(error).strip().splitlines()[-1]}" if "\n" in str(error) else str(error)
        )
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        fail(f"--config: {error.args[-1] if error.args else error}")


def fail(message: str) -> NoReturn:
    sys.exit(print_error(message))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
