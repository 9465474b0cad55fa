"""The losses of `unet_jax.learning` in plain PyTorch, from the papers or their authors' code.

Logits are float32 [N, K, H, W], labels uint8 [N, H, W].
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.learning import losses

Logits = Tensor | list[Tensor]
Loss = Callable[..., Tensor]  # (logits, label, weight=None) -> scalar


def build(
    *, name: str, weights: Sequence[float], class_weights: Sequence[float], **fields: Any
) -> Loss:
    """Builds the twin of `learning.losses.build`: (logits, label, weight or None) -> loss.

    For a list, the logits of all levels of a decoder, the loss is the twin of
    `learning.deep_supervision.mean_over_levels`.

    Raises:
      UserError: a field is invalid, or a term has no twin.
    """
    losses.build(name=name, weights=weights, class_weights=class_weights, **fields)
    if missing := [term for term in name.split("+") if term not in TERMS]:
        raise UserError(
            f"loss.name={name!r}: {missing[0]} has no PyTorch twin; choose from {', '.join(TERMS)}"
        )
    terms = [partial(TERMS[term], **losses.own_fields(term, fields)) for term in name.split("+")]

    def loss(logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor:
        if isinstance(logits, list):
            return mean_over_levels(loss, logits, label, weight)
        ignored = label == IGNORED
        logits = logits.masked_fill(ignored[:, None], 0.0)
        target = label.long().masked_fill(ignored, 0)
        weight = torch.ones_like(logits[:, 0]) if weight is None else weight
        weight = weight.masked_fill(ignored, 0.0)
        factors = logits.new_tensor(class_weights or [1.0] * max(logits.shape[1], 2))
        values = [term(logits, target, weight, factors, ignored) for term in terms]
        return (torch.stack(values) * logits.new_tensor(weights or [1.0] * len(terms))).sum()

    return loss


def mean_over_levels(
    loss: Loss, logits: list[Tensor], label: Tensor, weight: Tensor | None
) -> Tensor:
    """Returns the mean of the losses of all levels with weights 1, 1/2, 1/4, ..., as in nnU-Net."""
    values = []
    for level, own_logits in enumerate(logits):
        own_label = subsample(label, 2**level)
        own_weight = None if weight is None else subsample(weight, 2**level)
        rows, columns = own_label.shape[1:]
        values.append(loss(own_logits[:, :, :rows, :columns], own_label, own_weight))
    factors = torch.tensor([0.5**level for level in range(len(logits))])
    return (torch.stack(values) * (factors / factors.sum()).to(values[0])).sum()


def subsample(x: Tensor, stride: int) -> Tensor:
    """Takes the pixel nearest to the centre of each window that has it: [N, H, W]."""
    height, width = x.shape[1:]
    whole = F.pad(x, (0, -width % stride, 0, -height % stride))[:, None].float()
    nearest = F.interpolate(whole, scale_factor=1 / stride, mode="nearest-exact")[:, 0]
    rows, columns = (len(range(stride // 2, side, stride)) for side in (height, width))
    return nearest[:, :rows, :columns].to(x.dtype)


# Terms of a loss. Target (int64) and weight (float32) are [N, H, W] and 0 at ignored pixels;
# `factors` has one for each class; `ignored` is bool [N, H, W].


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    factors: Tensor,
    ignored: Tensor,
    label_smoothing: float,
) -> Tensor:
    values = pixel_cross_entropy(logits, target, label_smoothing)
    return weighted_mean(values, weight * factors[target])


def focal(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    factors: Tensor,
    ignored: Tensor,
    focal_gamma: float,
) -> Tensor:
    ce = pixel_cross_entropy(logits, target)
    # 1 - p_t, kept above 0, because a power below 1 has no finite gradient at 0.
    miss = (-torch.expm1(-ce)).clamp_min(torch.finfo(ce.dtype).tiny)
    return weighted_mean(miss**focal_gamma * ce, weight * factors[target])


def dice(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    factors: Tensor,
    ignored: Tensor,
    dice_smooth: float,
) -> Tensor:
    p, t = probabilities(logits), one_hot(target, logits)
    w, over = weight[:, None], (0, 2, 3)  # sums over `over` are [K]
    overlap, sizes = (w * p * t).sum(over), (w * p).sum(over) + (w * t).sum(over)
    per_class = 1 - (2 * overlap + dice_smooth) / (sizes + dice_smooth)
    return mean_over_classes(per_class, factors)


def tversky(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    factors: Tensor,
    ignored: Tensor,
    tversky_alpha: float,
    tversky_beta: float,
    dice_smooth: float,
    focal_tversky_gamma: float = 1.0,
) -> Tensor:
    """Salehi et al. 2017; with gamma Abraham & Khan 2019."""
    p, t = probabilities(logits), one_hot(target, logits)
    w, over = weight[:, None], (0, 2, 3)
    hits = (w * p * t).sum(over) + dice_smooth / 2
    errors = tversky_alpha * (w * p * (1 - t)).sum(over)
    errors = errors + tversky_beta * (w * (1 - p) * t).sum(over)
    misses = errors / (hits + errors)
    if focal_tversky_gamma > 1:  # no finite gradient at 0
        misses = misses.clamp_min(torch.finfo(p.dtype).tiny) ** (1 / focal_tversky_gamma)
    return mean_over_classes(misses, factors)


def lovasz(
    logits: Tensor, target: Tensor, weight: Tensor, factors: Tensor, ignored: Tensor
) -> Tensor:
    """The authors' `lovasz_hinge` and `lovasz_softmax` per image, with pixel weights.

    https://github.com/bermanmaxim/LovaszSoftmax/blob/master/pytorch/lovasz_losses.py
    """
    images = []
    for z, t, w in zip(logits.flatten(2), target.flatten(1), weight.flatten(1), strict=True):
        z, t, w = z[:, w > 0], t[w > 0], w[w > 0]
        if z.shape[0] == 1 and len(t):
            errors = 1 - z[0] * (2.0 * t - 1)
            images.append(lovasz_extension(errors.relu(), t, w))
        elif len(t):
            classes = [c for c in t.unique() if factors[c] > 0]
            p = z.softmax(dim=0)
            values = [lovasz_extension(((t == c) * 1.0 - p[c]).abs(), t == c, w) for c in classes]
            if values:
                images.append(weighted_mean(torch.stack(values), factors[torch.stack(classes)]))
    return torch.stack(images).mean() if images else (logits * 0).sum()


def lovasz_extension(errors: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
    """Returns the Lovász extension of 1 - IoU at the errors [P] of an image's pixels."""
    errors, order = errors.sort(descending=True)
    # In float64, because the slopes are differences of nearly equal numbers.
    inside = (weight * positive)[order].double()
    outside = (weight * (1 - positive.float()))[order].double()
    iou = (inside.sum() - inside.cumsum(0)) / (inside.sum() + outside.cumsum(0))
    slopes = (1 - iou).diff(prepend=iou.new_zeros(1))
    return torch.dot(errors, slopes.to(errors.dtype))


def cldice(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    factors: Tensor,
    ignored: Tensor,
    cldice_iterations: int,
    dice_smooth: float,
) -> Tensor:
    """The authors' `soft_cldice`, class by class, with pixel weights.

    https://github.com/jocpae/clDice/blob/master/cldice_loss/pytorch/cldice.py
    """
    p, t = probabilities(logits), one_hot(target, logits)
    if p.shape[1] > 1:
        p, t, factors = p[:, 1:], t[:, 1:], factors[1:]
    p = p.masked_fill(ignored[:, None], 0.0)
    w, over = weight[:, None], (0, 2, 3)
    skeleton, true_skeleton = (w * soft_skeleton(x, cldice_iterations) for x in (p, t))
    precision = ((skeleton * t).sum(over) + dice_smooth) / (skeleton.sum(over) + dice_smooth)
    sensitivity = (true_skeleton * p).sum(over) + dice_smooth
    sensitivity = sensitivity / (true_skeleton.sum(over) + dice_smooth)
    per_class = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    return mean_over_classes(per_class, factors)


def soft_skeleton(image: Tensor, iterations: int) -> Tensor:
    """The authors' `soft_skel` of images [N, K, H, W]."""

    def erode(x: Tensor) -> Tensor:
        rows = -F.max_pool2d(-x, (3, 1), (1, 1), (1, 0))
        columns = -F.max_pool2d(-x, (1, 3), (1, 1), (0, 1))
        return torch.min(rows, columns)

    def opening(x: Tensor) -> Tensor:
        return F.max_pool2d(erode(x), (3, 3), (1, 1), (1, 1))

    skeleton = F.relu(image - opening(image))
    for _ in range(iterations):
        image = erode(image)
        delta = F.relu(image - opening(image))
        skeleton = skeleton + F.relu(delta - skeleton * delta)
    return skeleton


def boundary(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    factors: Tensor,
    ignored: Tensor,
    boundary_weight: float,
    boundary_pixels: int,
) -> Tensor:
    """A pixel is near a border if its window has counted pixels of two classes."""
    classes = F.one_hot(target, max(logits.shape[1], 2)).movedim(-1, 1).float()
    classes = classes * ~ignored[:, None]
    found = F.max_pool2d(classes, 2 * boundary_pixels + 1, 1, boundary_pixels)
    near = found.sum(1) > 1
    weight = weight * factors[target] * (1 + boundary_weight * near)
    return weighted_mean(pixel_cross_entropy(logits, target), weight)


def pixel_cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Returns each pixel's cross-entropy, nats [N, H, W]."""
    if logits.shape[1] == 1:
        soft = target.float() * (1 - label_smoothing) + 0.5 * label_smoothing
        return F.binary_cross_entropy_with_logits(logits[:, 0], soft, reduction="none")
    return F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)


def probabilities(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)


def one_hot(target: Tensor, logits: Tensor) -> Tensor:
    """Returns whether a pixel has each logit's class, float32 [N, K, H, W]."""
    k = logits.shape[1]
    return (target[:, None] if k == 1 else F.one_hot(target, k).movedim(-1, 1)).float()


def mean_over_classes(values: Tensor, factors: Tensor) -> Tensor:
    return values[0] if len(values) == 1 else weighted_mean(values, factors)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Returns sum(weight values) / sum(weight); 0 if all weights are 0."""
    total = weight.sum()
    return (weight * values).sum() / torch.where(total > 0, total, 1.0)


TERMS: dict[str, Callable[..., Tensor]] = {
    "bce": cross_entropy,
    "cross_entropy": cross_entropy,
    "focal": focal,
    "dice": dice,
    "tversky": tversky,
    "focal_tversky": tversky,
    "lovasz": lovasz,
    "cldice": cldice,
    "boundary": boundary,
}
