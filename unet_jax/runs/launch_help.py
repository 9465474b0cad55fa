"""The help page of `launch.py`: its flags by subject, each in one line, with examples."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from absl import flags

from unet_jax.core.command_help import FIELDS

REQUESTS = {"-h", "-help", "--help", "-helpshort", "--helpshort", "-?", "--?"}
# What absl adds to the help of a flag with choices, and of one that may be repeated.
_ADDED = re.compile(r"^<[^>]*>: |;\s*repeat this option.*", re.DOTALL)


class Group(NamedTuple):
    """Flags of one subject.

    Attributes:
      title: the heading.
      modes: the modes that use these flags, or () if all do; any other flag names its modes.
      flags: their names, each with the placeholder of its value.
      examples: arguments of `launch.py`.
    """

    title: str
    modes: Sequence[str]
    flags: Mapping[str, str]
    examples: Sequence[str]


GROUPS = (
    Group(
        "Run",
        (),
        {"config": "FILE[:VARIANT]", "workdir": "FOLDER", "mode": "MODE"},
        (
            "--config=configs/demo.py",
            "--config=configs/isbi.py:small --workdir=runs/isbi",
            "--config=configs/isbi.py:small --mode=inspect",
        ),
    ),
    Group(
        "Training, --mode=train",
        ("train",),
        {"init_from": "RUN[:CHECKPOINT]"},
        ("--config=configs/folder.py --config.data.root=my-images --init_from=runs/ph2:best",),
    ),
    Group(
        "Evaluation, --mode=eval",
        ("eval",),
        {
            "split": "NAME",
            "data": "FOLDER",
            "checkpoint": "best|last|STEP",
            "tta": "",
            "ensemble": "RUN",
        },
        (
            "--mode=eval --workdir=runs/isbi --split=validation --checkpoint=last",
            "--mode=eval --workdir=runs/isbi --data=new-images --tta --ensemble=runs/isbi-seed1",
        ),
    ),
    Group(
        "Prediction, --mode=predict",
        ("predict",),
        {
            "input": "PATH",
            "output": "FOLDER",
            "probabilities": "",
            "overlays": "",
            "geojson": "",
            "gallery": "",
            "tile": "PIXELS",
        },
        (
            "--mode=predict --workdir=runs/isbi --input=images --output=masks --overlays --gallery",
            "--mode=predict --workdir=runs/isbi --input='scans/*.tif' --output=masks --tile=2048 "
            "--probabilities --geojson",
        ),
    ),
    Group(
        "Export, --mode=export",
        ("export",),
        {"format": "NAME", "author": "TEXT", "license": "SPDX", "cite": "TEXT"},
        (
            "--mode=export --workdir=runs/isbi --format=onnx --output=exported",
            "--mode=export --workdir=runs/isbi --format=bioimageio --output=package "
            "--license=CC-BY-4.0 --author='Ada Example, A University' --cite='A paper, 10.1/2'",
        ),
    ),
    Group(
        "Devices and hosts; in SLURM, Open MPI, Kubernetes and Cloud TPU jobs hosts are detected",
        (),
        {
            "platform": "cpu|gpu|tpu",
            "coordinator": "HOST:PORT",
            "num_processes": "N",
            "process_id": "I",
        },
        (
            "--config=configs/voc.py --workdir=runs/voc --platform=gpu",
            "--config=configs/voc.py --workdir=gs://bucket/voc --coordinator=host0:1234 "
            "--num_processes=2 --process_id=0",
        ),
    ),
)
HEAD = """\
usage: python launch.py --config=configs/NAME.py[:VARIANT] [--workdir=FOLDER] [--FLAG=VALUE ...]
       python launch.py --mode=MODE --workdir=FOLDER [--FLAG=VALUE ...]

Trains a segmentation network, evaluates it, predicts masks with it and exports it.
Rerunning a command resumes it."""
FOOT = f"""\
Config fields
  --config.FIELD=VALUE          Change a field of the experiment, also in --mode=eval.
  {FIELDS} explains every field and lists its default and range.

    python launch.py --config=configs/isbi.py --config.batch_size=8 --config.data.augment=flip

--help shows this page, --helpfull also the flags of absl (logging, files of flags and others)."""


def is_requested(arguments: Sequence[str]) -> bool:
    """Returns whether one of the arguments asks for the help page."""
    return not REQUESTS.isdisjoint(arguments)


def page(values: flags.FlagValues, uses: Mapping[str, Sequence[str]]) -> str:
    """Returns the help page.

    Args:
      values: the flags of `launch.py`.
      uses: the modes that use a flag, by its name; every mode uses a flag that is missing here.
    """
    parts = [HEAD]
    for group in GROUPS:
        lines = [
            _line(values[name], placeholder, uses.get(name, ()), group)
            for name, placeholder in group.flags.items()
        ]
        examples = [f"    {_wrapped(f'python launch.py {example}')}" for example in group.examples]
        parts.append("\n".join([group.title, *lines, "", *examples]))
    return "\n\n".join([*parts, FOOT])


def _line(flag: flags.Flag, placeholder: str, modes: Sequence[str], group: Group) -> str:
    name = f"--{flag.name}={placeholder}" if placeholder else f"--{flag.name}"
    other = "" if set(modes) == set(group.modes) else f" ({', '.join(modes)})"
    default = f" Default: {flag.default}." if flag.default not in (None, False, []) else ""
    return f"  {name:28}  {_ADDED.sub('', flag.help or '')}{default}{other}"


def _wrapped(command: str) -> str:
    """Continues a long command on the next line, as a shell reads it."""
    if len(command) <= 92:
        return command
    head, _, rest = command[:92].rpartition(" --")
    return f"{head} \\\n        --{rest}{command[92:]}"
