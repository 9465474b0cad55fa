"""How PyTorch repositories name the tensors of a network, and what the tensors show of it."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.models.encoders.efficientnet import LAST, STAGES
from unet_jax.models.encoders.encoder import ENCODERS, STRIDES

# Tensors that tell a network from the U-Net, by the twin's names.
MARKS = {
    "unet2": "pool.0.weight",
    "attention_unet": "attention.0.gate.weight",
    "residual_unet": "down.0.block.0.convs.0.weight",
    "unet_plus_plus": "up.0.1.convs.0.weight",
}


@dataclasses.dataclass(frozen=True)
class Form:
    """How a repository names tensors, and its fixed settings that tensors do not show."""

    title: str
    # (this project's name, see `torch_weights.torch_name`, and the network's depth) -> its name
    name: Callable[[str, int], str]
    fixed_fields: Mapping[str, Any]  # config fields that are fixed in the repository
    upsamples: str = ""  # values of `model.upsample` without transposed convolutions
    first: str = "down.0.convs.0.weight"  # this project's name of the first convolution
    head: str = "head.weight"  # this project's name of the head's convolution
    note: str = ""  # what else its users should know


def milesial_name(name: str, depth: int) -> str:
    """Returns milesial/Pytorch-UNet's name of a tensor of the twin.

    `down.1.convs.0.weight` becomes `down1.maxpool_conv.1.double_conv.0.weight`. Up blocks are
    counted from the bottom: with `depth` 4, `up.0.norms.1.bias` becomes
    `up4.conv.double_conv.4.bias`.
    """
    block, *rest = name.split(".")
    level = int(rest.pop(0)) if rest[0].isdigit() else depth
    if block == "head":
        return f"outc.conv.{rest[-1]}"
    if block == "upconv":
        return f"up{depth - level}.up.{rest[-1]}"
    if block not in ("down", "bottom", "up") or len(rest) != 3:
        return name  # of a layer that its network does not have
    kind, number, leaf = rest
    layer = f"double_conv.{3 * int(number) + (kind == 'norms')}.{leaf}"
    if block == "up":
        return f"up{depth - level}.conv.{layer}"
    return f"down{level}.maxpool_conv.1.{layer}" if level else f"inc.{layer}"


TWIN = Form(
    "unet_jax.interchange.torch_twin",
    lambda name, _: name,
    {},
    upsamples="nearest|bilinear|bilinear_corners",
)
MILESIAL = Form(
    "milesial/Pytorch-UNet",
    milesial_name,
    {"data.input_range": "unit", "model.padding": "same"},
    upsamples="bilinear_corners",
)


def _normalization_note(encoder: str) -> str:
    mean, std = (
        tuple(round(255 * share, 3) for share in shares)
        for shares in (ENCODERS[encoder].mean, ENCODERS[encoder].std)
    )
    return (
        f"if its images were normalized as the encoder's weights expect, give --config.data."
        f"normalize=zscore --config.data.mean='{mean}' --config.data.std='{std}' (8 bits)"
    )


SMP_FIELDS = {"model.name": "smp_unet", "model.stride": 1}
SMP = Form(
    "segmentation_models_pytorch",
    lambda name, _: name,
    SMP_FIELDS,
    first="encoder.conv1.weight",
    head="segmentation_head.0.weight",
    note=_normalization_note("resnet34"),
)
# smp wraps the encoders of timm, whose names there begin with `tu-`.
SMP_TIMM = Form(
    "segmentation_models_pytorch (tu-)",
    lambda name, _: re.sub(r"^encoder\.", "encoder.model.", name),
    SMP_FIELDS | {"model.encoder": "efficientnet_lite0"},
    first="encoder.conv_stem.weight",
    head="encoder.conv_stem.weight",  # smp's head alone does not tell its encoder
    note=_normalization_note("efficientnet_lite0"),
)
FORMS = (TWIN, MILESIAL, SMP_TIMM, SMP)


def exported_form(model: ConfigDict) -> Form:
    """Returns the form of an exported network.

    It is milesial's for the U-Net of depth 4 with batch normalisation, of any width; smp's for
    `smp_unet`; and the twin's otherwise.
    """
    if model.name == "smp_unet":
        return SMP_TIMM if model.get("encoder") == "efficientnet_lite0" else SMP
    same = {"name": "unet", "depth": 4, "padding": "same", "norm": "batch"}
    upsamples = ("transpose", "bilinear_corners")
    is_milesial = all(model[field] == value for field, value in same.items())
    if is_milesial and model.upsample in upsamples and not model.deep_supervision:
        return MILESIAL
    return TWIN


def recognise(path: pathlib.Path, state: Mapping[str, np.ndarray]) -> Form:
    """Returns the form whose first convolution or head is in a state_dict, or raises UserError."""
    if "encoder.conv_stem.weight" in state:
        raise UserError(
            f"{path}: the encoder timm-tf_efficientnet_lite0 of smp is not timm's network; only "
            f"its encoder tu-tf_efficientnet_lite0 can be imported"
        )
    for form in FORMS:
        if any(form.name(name, 0) in state for name in (form.first, form.head)):
            return form
    others = ", ".join(form.title for form in (TWIN, MILESIAL))
    raise UserError(
        f"{path}: tensor names such as {next(iter(state))} are neither those of {others} nor "
        f"of {SMP.title}; rename them first"
    )


def fields_of(state: Mapping[str, np.ndarray], form: Form) -> dict[str, Any]:
    """Infers config fields from the tensors; adds the form's fixed settings.

    A field that the tensors do not determine has the value `a|b`.
    """
    if form in (SMP, SMP_TIMM):
        return _fields_of_smp(state, form)
    levels = {found[1] for name in state if (found := re.match(r"down\.?(\d+)\.", name))}
    depth = len(levels)

    def shape(name: str) -> tuple[int, ...]:
        x = state.get(form.name(name, depth))
        return () if x is None else tuple(x.shape)

    first, head = shape(form.first), shape(form.head)
    fields: dict[str, Any] = dict(form.fixed_fields)
    if depth:
        fields["model.depth"] = depth
    if first:
        batch, norm = shape("down.0.norms.0.running_mean"), shape("down.0.norms.0.weight")
        fields["model.width"] = first[0]
        fields["model.norm"] = "batch" if batch else "group" if norm else "none"
    if head:
        name = "segnet" if head[2:] == (3, 3) else "unet"
        name = next((own for own, tensor in MARKS.items() if tensor in state), name)
        transposed = name in ("segnet", "unet_plus_plus") or shape(f"upconv.{depth - 1}.weight")
        fields["model.name"] = name
        if depth > 1 and name not in ("segnet", "unet_plus_plus"):
            fields["model.deep_supervision"] = "aux_head.1.weight" in state
        fields["model.classes"] = head[0]
        fields["model.upsample"] = "transpose" if transposed else form.upsamples
    return fields


def without_unused(state: Mapping[str, np.ndarray], form: Form) -> dict[str, np.ndarray]:
    """Removes the layers of smp's encoders below the last feature, which its U-Net does not use."""
    if form not in (SMP, SMP_TIMM):
        return dict(state)
    depth = fields_of(state, form).get("model.depth", len(STRIDES))
    if form is SMP:
        unused = tuple(f"encoder.layer{stage}." for stage in range(depth, 5))
    else:
        stages = range(LAST[depth - 1] + 1, len(STAGES))
        unused = tuple(f"encoder.model.blocks.{stage}." for stage in stages)
    return {name: x for name, x in state.items() if not name.startswith(unused)}


def _fields_of_smp(state: Mapping[str, np.ndarray], form: Form) -> dict[str, Any]:
    fields: dict[str, Any] = dict(form.fixed_fields)
    pattern = re.compile(r"decoder\.blocks\.(\d+)\.conv2\.0\.weight")
    blocks = {int(found[1]): x for name, x in state.items() if (found := pattern.fullmatch(name))}
    if blocks:
        fields["model.depth"] = len(blocks)
        fields["model.width"] = blocks[max(blocks)].shape[0]
    if SMP.head in state:
        fields["model.classes"] = state[SMP.head].shape[0]
    if form is SMP:
        # ResNet-18 has two blocks in each stage.
        deep = any(f"encoder.layer{stage}.2.conv1.weight" in state for stage in (1, 2, 3, 4))
        bottleneck = "encoder.layer1.0.conv3.weight" in state
        fields["model.encoder"] = "resnet50" if bottleneck else "resnet34" if deep else "resnet18"
    return fields
