"""Exports a run's network as a package of the BioImage Model Zoo (https://bioimage.io).

The package has the ONNX model and, where PyTorch is installed, the same as TorchScript, a test
image of the run with its result, a cover, and a description of axes, classes and scores.
`bioimageio test` applies both to the test image.
"""

from __future__ import annotations

import io
import pathlib
import re
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset
from unet_jax.interchange.onnx import (
    IMAGES,
    MASK,
    NETWORK,
    PROBABILITIES,
    build_model,
    require,
    to_input_values,
)
from unet_jax.interchange.output import check_free, write_files
from unet_jax.interchange.registry import EXPORTERS
from unet_jax.reporting.overlays import displayed, painted
from unet_jax.runs.experiment import open_data

if TYPE_CHECKING:
    from bioimageio.spec.model import v0_5

PACKAGE = "network.zip"
TORCHSCRIPT = "network.pt"
TEST_SIZE = 512  # largest side of the test image, pixels
COVER_SIZE = 256  # side of each half of the cover, pixels
DOI = re.compile(r"\b10\.\d{4,9}/\S+")
URL = re.compile(r"https?://\S+")
BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}


@EXPORTERS.register("bioimageio")
def export_run(
    folder: pathlib.Path,
    config: ConfigDict,
    *,
    checkpoint: str,
    output: pathlib.Path,
    author: Sequence[str] = (),
    license: str | None = None,
    cite: Sequence[str] = (),
) -> str:
    """Writes the package of a checkpoint; see `Exporter`. The data set of the run must be at hand.

    Without PyTorch, and for a network without a PyTorch twin, the package has ONNX weights only.

    Args:
      folder: folder of the run.
      config: the run's config.
      checkpoint: `best`, `last` or a step.
      output: the output folder.
      author: who made the network: NAME, or NAME, AFFILIATION.
      license: SPDX identifier of the licence of the network, such as CC-BY-4.0.
      cite: what users should cite, each a text with a DOI or a URL.

    Raises:
      UserError: authors, licence or citation are missing or invalid, or see `Exporter`.
    """
    check_free(output, (PACKAGE,))
    if not (author and license and cite):
        raise UserError(
            "--format=bioimageio needs --author='NAME, AFFILIATION' --license=SPDX-ID, such as "
            "CC-BY-4.0, and --cite='TEXT, DOI or URL'; give --author and --cite again for each more"
        )
    for package in ("onnx", "onnxruntime", "bioimageio.spec"):
        require(package, "bioimageio")
    stated = {
        "authors": [_author(text) for text in author],
        "license": _license(license),
        "cite": [_citation(text) for text in cite],
    }
    model = build_model(folder, config, checkpoint)
    config, dataset = open_data(config, folder, evaluated=True)  # the threshold may be chosen
    facts = {entry.key: entry.value for entry in model.metadata_props}
    torchscript, weights = _torchscript(folder, config, checkpoint)
    with tempfile.TemporaryDirectory() as temporary:
        here = pathlib.Path(temporary)
        (here / NETWORK).write_bytes(model.SerializeToString())
        if torchscript:
            (here / TORCHSCRIPT).write_bytes(torchscript)
        _write_examples(here, config, dataset)
        (here / "README.md").write_text(_readme(folder, facts | {"weights": weights}))
        try:
            content = _packed(_describe(here, config, dataset, facts, stated))
        except ValueError as error:  # what bioimageio.spec refuses, over several lines
            reason = " ".join(str(error).split())
            raise UserError(f"--format=bioimageio: the package is not valid: {reason}") from error
    write_files(output, {PACKAGE: content})
    return (
        f"the package is in {output / PACKAGE}; its weights are {weights}; bioimageio test "
        f"{output / PACKAGE} tests it"
    )


def _torchscript(folder: pathlib.Path, config: ConfigDict, checkpoint: str) -> tuple[bytes, str]:
    """Returns the network as TorchScript, b"" if it cannot be had, and what the package has."""
    try:
        from unet_jax.interchange.torch_twin import torchscript
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return b"", "ONNX only, because PyTorch is not installed"
    try:
        return torchscript.build_model(folder, config, checkpoint), "ONNX and TorchScript"
    except UserError as error:  # the network has no twin
        return b"", f"ONNX only ({error})"


def _write_examples(here: pathlib.Path, config: ConfigDict, dataset: Dataset) -> None:
    """Writes the test image, its results and the cover."""
    import onnxruntime

    session = onnxruntime.InferenceSession((here / NETWORK).read_bytes())
    split = dataset.splits[dataset.final_split]
    for index in range(len(split)):
        image = to_input_values(split.read(index)[0], config)
        image = image[tuple(_middle(size, TEST_SIZE) for size in image.shape[:2])]
        images = image.transpose(2, 0, 1)[None]
        results = session.run([MASK, PROBABILITIES], {IMAGES: images.astype(np.float32)})
        mask, probabilities = map(np.asarray, results)
        if mask.any():
            break
    else:
        raise UserError(
            f"--format=bioimageio: a package needs a test image with more than "
            f"{dataset.classes[0]}, but the network finds nothing else in the {len(split)} images "
            f"of the {dataset.final_split} split; train longer, or export with --format=onnx"
        )
    np.save(here / f"{IMAGES}.npy", images)
    np.save(here / f"{MASK}.npy", mask)
    np.save(here / f"{PROBABILITIES}.npy", probabilities)
    side = min(*image.shape[:2], COVER_SIZE)
    place = tuple(_middle(size, side) for size in image.shape[:2])
    drawn = painted(image[place], mask[0][place], len(dataset.classes))
    cover = np.concatenate([displayed(image[place]), drawn], axis=1)  # twice as wide as high
    Image.fromarray(np.ascontiguousarray(cover)).save(here / "cover.png")


def _middle(size: int, most: int) -> slice:
    start = max(0, size - most) // 2
    return slice(start, start + most)


def _readme(folder: pathlib.Path, facts: dict[str, str]) -> str:
    report = folder / "report.md"
    lines = [f"- {key}: {value}" for key, value in facts.items()]
    scores = report.read_text() if report.exists() else "The run was not evaluated."
    scores = re.sub(r"^#", "##", scores, flags=re.MULTILINE)
    scores = re.sub(r"^!\[.*\n?", "", scores, flags=re.MULTILINE)  # its figures stay in the run
    return "\n".join([f"# {facts['name']}", "", *lines, "", "## Validation", "", scores, ""])


def _describe(
    here: pathlib.Path,
    config: ConfigDict,
    dataset: Dataset,
    facts: dict[str, str],
    stated: dict[str, Any],
) -> v0_5.ModelDescr:
    """Describes the files; `stated` has the fields that the user states."""
    from bioimageio.spec.model import v0_5

    side = v0_5.ParameterizedSize(min=1, step=1)  # the model pads its images
    axes = [v0_5.AxisId(axis) for axis in ("y", "x")]
    space = [v0_5.SpaceInputAxis(id=axis, size=side) for axis in axes]
    same = [
        v0_5.SpaceOutputAxis(
            id=axis, size=v0_5.SizeReference(tensor_id=v0_5.TensorId(IMAGES), axis_id=axis)
        )
        for axis in axes
    ]
    classes = dataset.classes if config.model.classes > 1 else dataset.classes[1:]
    dtype: Any = facts["values"]

    def example(name: str) -> v0_5.FileDescr:
        return v0_5.FileDescr(source=here / f"{name}.npy")

    images = v0_5.InputTensorDescr(
        id=v0_5.TensorId(IMAGES),
        description="the stored values; the model scales them",
        axes=[v0_5.BatchAxis(), _channels(dataset.channel_names), *space],
        data=v0_5.IntervalOrRatioDataDescr(type=dtype),
        test_tensor=example(IMAGES),
        preprocessing=[
            v0_5.EnsureDtypeDescr(kwargs=v0_5.EnsureDtypeKwargs(dtype="float32")),
        ],
    )
    mask = v0_5.OutputTensorDescr(
        id=v0_5.TensorId(MASK),
        description="the class of each pixel",
        axes=[v0_5.BatchAxis(), *same],
        data=v0_5.NominalOrOrdinalDataDescr(type="uint8", values=[*dataset.classes]),
        test_tensor=example(MASK),
    )
    probabilities = v0_5.OutputTensorDescr(
        id=v0_5.TensorId(PROBABILITIES),
        axes=[v0_5.BatchAxis(), _channels(classes), *same],
        data=v0_5.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0)),
        test_tensor=example(PROBABILITIES),
    )
    return v0_5.ModelDescr(
        name=re.sub(r"[^\w+\- ()]", "-", f"{facts['name']} ({facts['network']})", flags=re.ASCII),
        description=f"Segments {', '.join(dataset.classes)}; a {facts['network']} of unet_jax.",
        **stated,
        documentation=v0_5.FileDescr(source=here / "README.md"),
        covers=[v0_5.FileDescr(source=here / "cover.png")],
        tags=["segmentation", "unet", "2d"],
        inputs=[images],
        outputs=[mask, probabilities],
        weights=_weights(here),
    )


def _weights(here: pathlib.Path) -> v0_5.WeightsDescr:
    from bioimageio.spec.model import v0_5

    onnx = v0_5.OnnxWeightsDescr(source=here / NETWORK, opset_version=18)
    if not (here / TORCHSCRIPT).exists():
        return v0_5.WeightsDescr(onnx=onnx)
    import torch

    # All weights but one must name a parent. Both are converted from the run.
    script = v0_5.TorchscriptWeightsDescr(
        source=here / TORCHSCRIPT,
        parent="onnx",
        pytorch_version=v0_5.Version(torch.__version__.partition("+")[0]),
        comment="The PyTorch twin of the same network, with the same weights.",
    )
    return v0_5.WeightsDescr(onnx=onnx, torchscript=script)


def _channels(names: Sequence[str]) -> v0_5.ChannelAxis:
    from bioimageio.spec.model import v0_5

    # Names of channels are identifiers there.
    return v0_5.ChannelAxis(channel_names=[re.sub(r"\W", "_", name) for name in names])


def _author(text: str) -> v0_5.Author:
    from bioimageio.spec.model import v0_5

    name, _, affiliation = (part.strip() for part in text.partition(","))
    try:
        return v0_5.Author(name=name, affiliation=affiliation or None)
    except ValueError as error:
        raise UserError(f"--author={text!r}: a name must not have a slash") from error


def _license(text: str) -> str:
    from bioimageio.spec.generic.v0_3 import LicenseId

    try:
        return LicenseId(text)
    except ValueError as error:
        raise UserError(
            f"--license={text!r}: is not an SPDX identifier; https://spdx.org/licenses lists them, "
            f"such as CC-BY-4.0"
        ) from error


def _citation(text: str) -> v0_5.CiteEntry:
    from bioimageio.spec.model import v0_5

    if doi := DOI.search(text):
        return v0_5.CiteEntry(text=text, doi=_without_punctuation(doi[0]))
    if url := URL.search(text):
        return v0_5.CiteEntry(text=text, url=_without_punctuation(url[0]))
    raise UserError(f"--cite={text!r}: has neither a DOI (10.1234/...) nor a URL; add one")


def _without_punctuation(link: str) -> str:
    """Removes what follows a link in a sentence; a bracket that was opened in the link is its own.

    Args:
      link: a DOI or a URL, up to the next white space.
    """
    while link:
        last = link[-1]
        opening = BRACKETS.get(last)
        closes = opening is not None and link.count(last) > link.count(opening)
        if last not in ".,;:!?\"'" and not closes:
            break
        link = link[:-1]
    return link


def _packed(description: v0_5.ModelDescr) -> bytes:
    from bioimageio.spec import save_bioimageio_package_to_stream

    stream: Any = save_bioimageio_package_to_stream(description, output_stream=io.BytesIO())
    return stream.getvalue()
