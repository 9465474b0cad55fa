"""Tests that networks and losses equal their twins, and that the comparison finds differences."""

import json
import math
import subprocess
import sys

import jax
import pytest
import torch

from benchmarks import parity
from benchmarks.pytorch import matched
from unet_jax.interchange.torch_twin import convert, twin
from unet_jax.learning.registry import LOSSES

torch.set_num_threads(1)  # more threads do not pay at these sizes

CASES = [
    ("unet", True),
    ("unet valid", True),
    ("unet nearest", True),
    ("unet bilinear", True),
    ("unet bilinear corners", True),
    ("unet group", True),
    ("unet2", True),
    ("segnet", True),
    ("attention_unet", True),
    ("residual_unet", True),
    ("unet_plus_plus", True),
    ("unet deep", True),
    ("unet", False),  # the running statistics of other networks are no others
    ("segnet", False),
    ("residual_unet", False),
]


@pytest.fixture(autouse=True)
def quick_compilation():
    """Disables LLVM's optimisations, which take longer than the tests themselves."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def worst(name: str, train: bool) -> dict[str, float]:
    rows = list(parity.compare(name, train))
    assert [(row["loss"], row["classes"]) for row in rows] == list(parity.LOSSES)
    return {measure: max(row[measure] for row in rows) for measure in ("logits", "gradients")}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "train"), CASES)
def test_networks_equal_their_twins(name, train):
    found = worst(name, train)
    assert found["logits"] < 1e-4
    assert found["gradients"] < 1e-3


@pytest.mark.slow
def test_a_network_equals_its_twin_until_the_twin_changes(monkeypatch):
    row = next(parity.compare("unet", train=False))
    assert all(row[measure] < parity.BOUNDS[measure] for measure in ("logits", "gradients"))
    move_epsilon(monkeypatch)
    assert exceeds("unet", False, "logits")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "loss", "classes"),
    [
        ("unet", "bce", 1),
        ("unet", "bce+cldice", 1),
        ("unet", "lovasz", 1),
        ("unet", "cross_entropy smoothed", 3),
        ("segnet", "cross_entropy+dice", 3),
        ("residual_unet", "bce", 1),
        ("attention_unet", "bce", 1),
        ("unet_plus_plus", "bce", 1),
    ],
)
def test_losses_agree_over_twenty_steps_of_adam(name, loss, classes):
    row = parity.compare_adam(name, loss, classes)
    assert row["adam"] < 0.01
    assert row["last"] < 0.97 * row["first"]  # smoothed labels cannot be fitted


@pytest.mark.parametrize("name", ["unet", "unet valid", "segnet"])
def test_there_are_tied_maxima(name):
    assert matched.tied_maxima(name) > 0.05


def test_every_loss_is_compared():
    terms = {term for name, _ in parity.LOSSES for term in name.partition(" ")[0].split("+")}
    assert terms == set(LOSSES)


def test_unet2_has_no_max_pooling():
    assert matched.tied_maxima("unet2") is None


class LastMaximum(torch.nn.MaxPool2d):
    """Passes the gradient to the last of several tied maxima."""

    def forward(self, x):
        pooled = super().forward(x.flip(2, 3))
        if not self.return_indices:
            return pooled.flip(2, 3)
        values, index = (y.flip(2, 3) for y in pooled)
        return values, x.shape[2] * x.shape[3] - 1 - index


def mirror_no_kernel(monkeypatch):
    def layout(path, x):
        if "upconv" in path[1] and x.ndim == 4:
            return x.transpose(2, 3, 0, 1).copy()
        return original(path, x)

    original = convert.to_torch_layout
    monkeypatch.setattr(convert, "to_torch_layout", layout)


def take_the_last_maximum(monkeypatch):
    monkeypatch.setattr(torch.nn, "MaxPool2d", LastMaximum)


def move_epsilon(monkeypatch):
    monkeypatch.setattr(twin, "make_norm", lambda _, c: torch.nn.BatchNorm2d(c, eps=1e-3))


def align_corners(monkeypatch):
    upsample = torch.nn.Upsample
    monkeypatch.setattr(
        torch.nn, "Upsample", lambda **options: upsample(**options, align_corners=True)
    )


def align_no_corners(monkeypatch):
    upsample = torch.nn.Upsample
    monkeypatch.setattr(
        torch.nn, "Upsample", lambda **options: upsample(**options | {"align_corners": False})
    )


def pad_before(monkeypatch):
    pad = torch.nn.functional.pad
    monkeypatch.setattr(twin.F, "pad", lambda x, p: pad(x, (p[1], 0, p[3], 0)))


def exceeds(name: str, train: bool, measure: str) -> bool:
    return any(row[measure] > 2 * parity.BOUNDS[measure] for row in parity.compare(name, train))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train", "mutate", "measure"),
    [
        ("unet", True, mirror_no_kernel, "logits"),
        ("unet", True, take_the_last_maximum, "gradients"),
        ("segnet", False, take_the_last_maximum, "logits"),
        ("unet bilinear", True, align_corners, "logits"),
        ("unet bilinear corners", True, align_no_corners, "logits"),
        ("segnet", True, pad_before, "logits"),
    ],
)
def test_a_changed_twin_exceeds_a_bound(name, train, mutate, measure, monkeypatch):
    mutate(monkeypatch)
    assert exceeds(name, train, measure)


def test_the_command_writes_its_rows_and_fails_if_a_bound_is_exceeded(
    tmp_path, monkeypatch, capsys
):
    def compare(name, train):
        mode = "training" if train else "evaluation"
        yield {"model": name, "loss": "bce", "mode": mode, "logits": 2e-5, "gradients": errors[-1]}

    def compare_adam(name, loss, classes):
        return {"model": name, "loss": loss, "adam": 1e-3}

    monkeypatch.setattr(parity, "compare", compare)
    monkeypatch.setattr(parity, "compare_adam", compare_adam)
    out, errors = tmp_path / "parity.json", [3e-4]
    parity.main([f"--out={out}", "--model", "unet2"])
    content = json.loads(out.read_text())
    assert content["rows"] == [*compare("unet2", True), *compare("unet2", False)]
    assert "| unet2 | bce | training | 2e-05 | 0.0003 |" in capsys.readouterr().out
    assert [row["loss"] for row in content["adam"]] == [name for name, _ in parity.LOSSES]
    for error in (3e-3, math.nan):
        errors.append(error)
        with pytest.raises(SystemExit, match=r"unet2, bce: gradients .* is above 0\.001") as stop:
            parity.main(["--model", "unet2"])
        assert isinstance(stop.value.code, str)  # printed; the exit code is 1


@pytest.mark.slow
def test_other_packages_are_not_imported():
    absent = "grain orbax tifffile imagecodecs PIL pooch tensorboardX matplotlib jinja2 skimage"
    code = f"import sys; sys.modules |= dict.fromkeys({absent.split()}); import benchmarks.parity"
    subprocess.run([sys.executable, "-c", code], check=True)
