"""Converts the labels of annotation tools to a folder of images and masks.

python -m unet_jax.prepare labels --from=coco --root=annotations --output=my-images

It writes

    OUTPUT/images/NAME.*   the images, unchanged (hard links where possible)
    OUTPUT/masks/NAME.png  class ids: 0 = background, 255 = ignored
    OUTPUT/classes.txt     the ids and the names of the classes

on which `launch.py --config=configs/folder.py --config.data.root=OUTPUT` trains. A pixel belongs to
an area if its centre lies inside; integer coordinates are the corners of pixels. Where areas
overlap, the later one counts. An image that cannot be converted is left out and does not stop the
others; its error is printed. Rerunning the command resumes it.
"""

import argparse
import inspect
import pathlib

from unet_jax.core.errors import UserError, print_error
from unet_jax.core.files import expand
from unet_jax.core.streams import say
from unet_jax.data.annotations.convert import convert
from unet_jax.data.annotations.registry import FORMATS, Request
from unet_jax.data.sources.registry import PREPARATIONS, Preparation

SHOWN = 20  # the most faults that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this preparation, and the formats to its help."""
    modules = {name: inspect.getmodule(entry.read) for name, entry in sorted(FORMATS.items())}
    parser.epilog = "\n\n".join(f"{name}: {module.__doc__}" for name, module in modules.items())
    parser.add_argument(
        "--from",
        required=True,
        choices=sorted(FORMATS),
        dest="form",
        metavar="FORMAT",
        help=", ".join(sorted(FORMATS)),
    )
    parser.add_argument("--root", required=True, help="folder or file of the annotations")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--images", help="folder of the images, if they are not beside --root")
    parser.add_argument(
        "--crowd",
        choices=("class", "ignored"),
        help="coco: whether crowds count as their class (default) or are ignored",
    )


def prepare_labels(options: argparse.Namespace) -> list[str]:
    """Converts annotations.

    Args:
      options: the parsed arguments.

    Returns:
      One line for each image that could not be converted.

    Raises:
      UserError: the annotations cannot be read, an option does not apply to their format, or the
        output folder has other files.
    """
    form = FORMATS[options.form]
    for name in ("images", "crowd"):
        if getattr(options, name) is not None and name not in form.options:
            raise UserError(f"--{name}: --from={options.form} does not use it; leave it out")
    root, output = (pathlib.Path(expand(path)) for path in (options.root, options.output))
    images = pathlib.Path(expand(options.images)) if options.images else None
    if images and not images.is_dir():
        raise UserError(f"--images={images}: no such folder; give the folder of the images")
    crowd = options.crowd or "class"
    found = form.read(Request(root, images, crowd))
    total = len(found.images) + len(found.faults)
    made_from = {
        "from": options.form,
        "root": str(root.resolve()),
        "images": str(images.resolve()) if images else None,
        "crowd": crowd,
    }
    ids = convert(found, output, made_from)
    for note in found.described_notes():
        say(f"note         {note}")
    faults = found.faults
    for fault in [*faults[:SHOWN], *["..."] * (len(faults) > SHOWN)]:
        print_error(fault)
    classes = ", ".join(f"{value} = {name}" for name, value in ids.items())
    say(f"{output}: {total - len(faults)} of {total} images are converted; masks have {classes}")
    say(f"train on them with --config=configs/folder.py --config.data.root={output}")
    return faults


PREPARATIONS.register("labels")(Preparation(add_arguments, prepare_labels))
