"""`--init_from`: a new run starts from the weights of another run, its parent.

The run's folder records the parent in `initial.json`. The parent is not needed to resume the run.
"""

import os
import pathlib
import shlex
from typing import Any, NamedTuple, Self

from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.bucket import is_bucket
from unet_jax.core.config import differences, digest
from unet_jax.core.errors import UserError
from unet_jax.core.files import run_path, write_json
from unet_jax.core.intensities import Intensities
from unet_jax.core.streams import say
from unet_jax.data.dataset import Dataset
from unet_jax.distributed import hosts
from unet_jax.inference import predictor
from unet_jax.runs import folder as run_folder
from unet_jax.runs.checkpoint_io import numbered
from unet_jax.runs.experiment import check, saved_config
from unet_jax.training.encoder_weights import with_pretrained_encoder
from unet_jax.training.initial import Transfer, describe_adaptation, transfer

# Fields that may differ between the networks of a run and its parent without a note.
UNNOTED = ("model.classes", "model.dtype", "model.dropout", "model.pretrained")
NORMALIZATION = ("limits", "mean", "std", "input_range")  # attributes of `Intensities`


class Parent(NamedTuple):
    """The run and the checkpoint from which another run starts."""

    folder: pathlib.Path  # absolute
    checkpoint: str  # best, last or a step

    @classmethod
    def parse(cls, given: str) -> Self:
        """Parses the value of `--init_from`: RUN or RUN:STEP."""
        folder, _, checkpoint = given.rpartition(":")
        if checkpoint not in ("best", "last") and not checkpoint.isdecimal():
            folder, checkpoint = given, "best"
        path = run_path(folder)
        return cls(path if is_bucket(path) else pathlib.Path(os.path.abspath(path)), checkpoint)

    def __str__(self) -> str:
        return f"{self.folder}:{self.checkpoint}"


def initial_variables(
    given: str | None,
    folder: pathlib.Path,
    config: ConfigDict,
    dataset: Dataset,
    variables: dict,
) -> dict | None:
    """Returns the variables from which a run starts, and records in its folder where they are from.

    The first host reads the files; all hosts must call this. The folder must be claimed, and its
    checkpoints must not be open yet.

    Args:
      given: the value of `--init_from`, or None.
      folder: the run's folder.
      config: the run's config.
      dataset: its data.
      variables: the initial variables of the network.

    Returns:
      The parent's variables, for a run without a parent `variables` with the pretrained weights of
      the encoder if it has any, or None for a run that has a training state, from which it resumes.

    Raises:
      UserError: the run began from another parent, or from none; or the parent's network does not
        fit, or cannot be read.
    """
    found: dict | None = None

    def start() -> str:
        nonlocal found
        parent = None if given is None else Parent.parse(given)
        has_state = bool(numbered(folder / "checkpoints"))
        if run_folder.has_begun(folder):
            _check_same(folder, parent, _recorded(folder), has_state)
        else:
            (folder / run_folder.INITIAL).unlink(missing_ok=True)  # of a start that was interrupted
        if has_state:
            return "resume"
        if parent is None and config.model.get("pretrained"):
            found = with_pretrained_encoder(folder, config, variables)
            return "weights"
        if parent is None:
            return "scratch"
        found = _from_parent(parent, f"--init_from={given}", folder, config, dataset, variables)
        return "weights"

    begin = hosts.on_first(start)
    if begin == "resume":
        return None
    return variables if begin == "scratch" else hosts.share(found or variables)


def _recorded(folder: pathlib.Path) -> tuple[Parent, int] | None:
    """Returns the parent that the run in `folder` recorded, and its step; None if it has none."""
    parent = run_folder.read_initial(folder).get("parent")
    if parent is None:
        return None
    try:
        return Parent(run_path(parent["folder"]), parent["checkpoint"]), parent["step"]
    except (KeyError, TypeError):
        raise run_folder.bad_initial(folder / run_folder.INITIAL) from None


def _check_same(
    folder: pathlib.Path,
    parent: Parent | None,
    recorded: tuple[Parent, int] | None,
    has_state: bool,
) -> None:
    """Raises `UserError` unless a run that has begun did so from this parent."""
    other = "; use another folder with --workdir=..."
    if recorded is None:
        if parent is not None:
            raise UserError(
                f"--init_from: the run in {folder} began without it; leave it out to resume{other}"
            )
        return
    began, step = recorded
    if parent is None:
        if not has_state:
            raise UserError(
                f"{folder}: this run began with --init_from={began} and has no training state yet; "
                f"give the flag again{other}"
            )
    elif parent.folder != began.folder or parent.checkpoint not in (began.checkpoint, str(step)):
        raise UserError(
            f"--init_from={parent}: the run in {folder} began with --init_from={began}; give that, "
            f"or leave it out, to resume{other}"
        )


def _from_parent(
    parent: Parent,
    flag: str,
    folder: pathlib.Path,
    config: ConfigDict,
    dataset: Dataset,
    variables: dict,
) -> dict:
    """Reads the parent's network, says what is taken of it and records it."""
    if not (parent.folder / run_folder.CONFIG).is_file():
        raise UserError(
            f"{flag}: {parent.folder} has no {run_folder.CONFIG}, so it is not the folder of a "
            f"run; give RUN or RUN:STEP, where STEP is best, last or a number"
        )
    try:
        theirs = saved_config(run_folder.read_config(parent.folder))
        check(theirs)
        step, channels, source = predictor.restore(parent.folder, theirs, parent.checkpoint)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error
    network = models.build(**config.model)
    found, made = transfer(variables, source, network.first_kernel, network.head_modules)
    fields = [x for x in differences(theirs, config, UNNOTED) if x.startswith("model.")]
    fields = [x.replace(" in the run", " there").replace(" in the config", " here") for x in fields]
    if made.misfits:
        more = f"; and {len(made.misfits) - 3} more" if made.misfits[3:] and not fields else ""
        raise UserError(
            f"{flag}: its network does not fit ({'; '.join(fields or made.misfits[:3])}{more}); "
            f"give the same model.* fields, or another run"
        )
    say(f"weights      of {parent.folder}, step {step}: {len(made.taken)} arrays taken")
    for line in [
        *_changes(made, theirs, config, channels, dataset.channels),
        *(f"note         {x}; the weights fit both" for x in fields),
        *(["note         model.pretrained is not read"] if config.model.get("pretrained") else []),
        *_class_notes(made, parent.folder, dataset),
        *_normalization_notes(theirs.data, config.data, channels == dataset.channels),
    ]:
        say(line)
    origin = {
        "folder": str(parent.folder),
        "checkpoint": parent.checkpoint,
        "step": step,
        "config_digest": digest(theirs),
        "weights": models.weights_digest(source),
    }
    write_json(folder / run_folder.INITIAL, {"parent": origin, "modules": made.modules})
    return found


def _changes(
    made: Transfer, theirs: ConfigDict, config: ConfigDict, there: int, here: int
) -> list[str]:
    """Says which weights were adapted and which start from scratch."""
    lines = []
    if made.adapted:
        lines.append(describe_adaptation(there, here))
    if made.new:
        names = ", ".join(name for name, state in made.modules.items() if state == "new")
        logits = f"{theirs.model.classes} logits there, {config.model.classes} here"
        lines.append(f"new          {names}: {logits}")
    return lines


def _class_notes(made: Transfer, parent: pathlib.Path, dataset: Dataset) -> list[str]:
    """Says if the head is taken, although the classes have other names."""
    names = run_folder.recorded_classes(parent)
    if made.new or names is None or names == list(dataset.classes):
        return []
    return [
        f"note         the head is taken, but its classes were {', '.join(names)}, and here they "
        f"are {', '.join(dataset.classes)}"
    ]


def _normalization_notes(theirs: ConfigDict, ours: ConfigDict, same_channels: bool) -> list[str]:
    """Says if the network's input is normalized in another way than the parent's."""
    there, here = Intensities.of(theirs), Intensities.of(ours)
    if there == here:
        return []
    fields = _normalization(there)
    advice = "; to keep the parent's, give " + " ".join(
        f"--config.data.{name}={shlex.quote(str(value))}" for name, value in fields.items()
    )
    own = ", ".join(f"data.{name}={value}" for name, value in _normalization(here).items())
    listed = ", ".join(f"data.{name}={value}" for name, value in fields.items())
    return [
        f"note         the input of the parent was normalized with {listed}, here it is with {own}"
        f"{advice * same_channels}"
    ]


def _normalization(intensities: Intensities) -> dict[str, Any]:
    """Returns the fields of `config.data` that give these intensities."""
    method = "zscore" if intensities.std else "limits" if intensities.limits else "range"
    values = {name: getattr(intensities, name) for name in NORMALIZATION}
    return {"normalize": method} | {name: value for name, value in values.items() if value}
