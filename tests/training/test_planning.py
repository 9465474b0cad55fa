"""Plans: what is chosen for which data, device and time, and that runs keep it."""

import contextlib
import functools
import io

import cv2
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launched import run_here
from made_cases import write_case
from made_data import pick
from made_files import refused
from pictures import _no_pictures as _no_pictures

from configs import base, folder
from unet_jax.core.errors import EXIT_USER_ERROR, UserError
from unet_jax.data.dataset import RGB, Dataset, Split
from unet_jax.distributed import devices
from unet_jax.runs.experiment import check, open_data, open_fields
from unet_jax.runs.folder import read_config
from unet_jax.training import planning
from unet_jax.training.plan import make_plan

OPEN = folder.PLANNED


def made(labels: np.ndarray, channels: int = 1, classes: int = 2, validation: int = 2) -> Dataset:
    """A data set with the labels [N, H, W] and images that follow them."""
    images = (labels * 50)[..., None].repeat(channels, -1)
    split = Split(
        names=tuple(map(str, range(len(labels)))),
        sizes=(labels.shape[1:],) * len(labels),
        read=functools.partial(pick, images, labels),
    )
    few = Split(split.names[:validation], split.sizes[:validation], split.read)
    return Dataset(
        splits={"train": split, "validation": few, "test": few},
        classes=tuple(f"class {k}" for k in range(classes)),
        channels=channels,
        channel_names=RGB if channels == 3 else ("grey",),
        sha256={"made": "0"},
    )


def discs(side: int, radius: int, count: int = 6) -> np.ndarray:
    labels = np.zeros((count, side, side), np.uint8)
    for label in labels:
        cv2.circle(label, (side // 2, side // 2), radius, 1, -1)
    return labels


@pytest.fixture
def pace(monkeypatch):
    """Seconds per step for each width, in place of measured ones: of any number of small images, or
    of four of 256x256."""
    seconds = {16: 0.1, 32: 0.3, 64: 5.0}

    def seconds_per_step(config, *_):
        share = config.batch_size * config.data.size**2 / (4 * 256**2)
        return seconds[config.model.width] * (share if config.data.size > 64 else 1)

    monkeypatch.setattr(planning, "seconds_per_step", seconds_per_step)
    monkeypatch.setattr(planning.devices, "local_mesh", lambda: MESH)
    monkeypatch.setattr(planning, "fits", lambda *_: True)
    return seconds


MESH = devices.local_mesh(jax.devices()[:2])


def plan(dataset, **fields):
    config = folder.get_config("auto")
    config.update_from_flattened_dict({name.replace("__", "."): x for name, x in fields.items()})
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        config = planning.plan(config, dataset)
    return config, [line for line in printed.getvalue().splitlines() if "=" in line]


def test_every_open_field_is_chosen_once_and_with_a_reason(pace):
    config, lines = plan(made(discs(600, 200)))
    assert open_fields(config) == []
    assert sorted(line.split()[1].partition("=")[0] for line in lines) == sorted(OPEN)
    assert all(line.startswith("plan ") and ": " in line for line in lines)
    check(config)


def test_large_objects_are_seen_whole_and_thin_ones_in_windows(pace):
    config, _ = plan(made(discs(600, 200)))
    assert (config.data.fit, config.data.size, config.data.crops_per_image) == ("resize", 128, 1)
    assert (config.loss.name, config.data.foreground, config.model.depth) == ("bce", 0.0, 4)
    assert "rotation" in config.data.augment
    thin = np.zeros((6, 600, 600), np.uint8)
    thin[:, ::60] = thin[:, 1::60] = 1
    config, lines = plan(made(thin))
    assert (config.data.fit, config.data.size, config.data.crops_per_image) == ("crop", 256, 5)
    assert (config.loss.name, config.data.foreground) == ("bce+dice", 0.33)
    assert "rotation" not in config.data.augment
    assert "3.3% of the training pixels are foreground, which is rare" in "\n".join(lines)


@pytest.mark.parametrize(("side", "size", "depth"), [(64, 64, 3), (50, 50, 2), (9, 16, 1)])
def test_small_images_keep_their_size(pace, side, size, depth):
    config, _ = plan(made(discs(side, side // 3)))
    assert (config.data.fit, config.data.size, config.model.depth) == ("resize", size, depth)


def test_colours_are_changed_only_where_there_are_some(pace):
    augments = [plan(made(discs(64, 20), channels))[0].data.augment for channels in (1, 3)]
    assert ["hue" in names for names in augments] == [False, True]


def test_many_classes_get_the_cross_entropy(pace):
    labels = discs(64, 20)
    labels[:, :2] = 2
    assert plan(made(labels, classes=3))[0].loss.name == "cross_entropy+dice"
    labels[:, :8] = 2
    assert plan(made(labels, classes=3))[0].loss.name == "cross_entropy"


def test_stated_fields_are_kept_and_the_rest_follows_them(pace):
    stated = {"data__fit": "crop", "data__size": 32, "model__width": 64, "loss__name": "dice"}
    config, lines = plan(made(discs(64, 20)), **stated)
    assert (config.data.fit, config.data.size, config.data.crops_per_image) == ("crop", 32, 4)
    assert (config.model.width, config.loss.name, config.model.depth) == (64, "dice", 2)
    assert "5 s" in next(line for line in lines if "num_epochs" in line)
    assert not any(name in line for line in lines for name in ("data.fit", "loss.name", "width"))


def test_a_stated_batch_that_the_devices_cannot_share_is_refused(pace):
    with pytest.raises(UserError, match="batch_size=3: is not divisible by the number of devices"):
        plan(made(discs(64, 20)), batch_size=3)


def test_the_widest_network_that_can_be_trained_is_taken(pace):
    widths = []
    for minutes in (0.01, 5, 20, 1000):
        config, _ = plan(made(discs(64, 20)), plan__minutes=minutes)
        widths.append(config.model.width)
    assert widths == [16, 16, 32, 64]


def thin_lines() -> Dataset:
    labels = np.zeros((6, 600, 600), np.uint8)
    labels[:, ::60] = labels[:, 1::60] = 1
    return made(labels)


def test_windows_and_batches_are_small_if_there_is_little_time(pace):
    thin, chosen = thin_lines(), {}
    # 0.1 s a step of four windows of 256x256: 3,000 steps take 5.9 minutes.
    for minutes in (0.01, 1, 1.5, 3, 6, 20, 1000):
        config, lines = plan(thin, plan__minutes=minutes)
        chosen[minutes] = config.data.size, config.batch_size, config.model.width
        printed = "\n".join(lines)
        assert ("larger ones could not take 3000 steps" in printed) == (config.data.size == 128)
        assert ("; 4 could not take 3000 steps" in printed) == (config.batch_size == 2)
        assert config.data.crops_per_image == round(600**2 / config.data.size**2)
        assert ("windows and batches grow before" in printed) == (1 <= minutes < 6)
        assert ("the widest of" in printed) == (minutes >= 6)
    assert chosen == {
        0.01: (128, 2, 16),
        1: (128, 2, 16),
        1.5: (128, 4, 16),
        3: (256, 2, 16),
        6: (256, 4, 16),
        20: (256, 4, 32),
        1000: (256, 4, 64),
    }
    assert plan(thin, plan__minutes=0.01, data__size=256)[0].batch_size == 2
    config = plan(thin, plan__minutes=0.01, batch_size=8)[0]
    assert (config.data.size, config.batch_size) == (128, 8)
    for fit, batch_sizes in (("crop", [2, 16]), ("resize", [16, 16])):
        fields = {"data__fit": fit, "data__size": 64}
        found = [plan(made(discs(64, 20, 20)), plan__minutes=x, **fields)[0] for x in (0.01, 30)]
        assert [config.batch_size for config in found] == batch_sizes


@pytest.mark.parametrize(("side", "size"), [(100, 128), (200, 224), (250, 128), (1000, 128)])
def test_windows_are_halved_only_if_they_stay_large(pace, side, size):
    config, _ = plan(made(discs(side, side // 3)), data__fit="crop", plan__minutes=0.01)
    assert (config.data.size, config.model.depth) == (size, 4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(0.001, 10), st.floats(0.3, 1), st.floats(1, 10_000))
def test_the_largest_step_is_taken_that_can_be_repeated(first, power, seconds):
    """If steps with more arithmetic take as much longer, or less than that."""
    thin = np.zeros((6, 600, 600), np.uint8)
    thin[:, ::60] = thin[:, 1::60] = 1
    dataset, config = made(thin), folder.get_config("auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "fits", lambda *_: True)

        def cost(config):
            return config.batch_size * config.data.size**2 * config.model.width / (2 * 128**2 * 16)

        patch.setattr(planning, "seconds_per_step", lambda c, *_: first * cost(c) ** power)
        choices = planning.Choices(config)
        found = planning.fingerprint(dataset.splits["train"], 2)
        planning.plan_input(choices, found, dataset)
        planning.plan_loss(choices, found, dataset.classes)
        with contextlib.redirect_stdout(io.StringIO()):
            steps = planning.possible_steps(choices, found, dataset, MESH)
            pace = planning.plan_step(choices, found, dataset, MESH, seconds)
    assert pace == first * cost(choices.config) ** power
    costs = [step.cost / steps[0].cost for step in steps]
    assert costs == sorted(set(costs))
    possible = [x for x in costs if first * x**power * planning.LEAST_STEPS <= seconds] or [1]
    taken = cost(choices.config)
    assert taken <= max(possible)
    if power == 1:
        assert taken == max(possible)
    # One that is larger would have been timed if it were sure to be fast enough.
    assert not any(x > taken and x / taken * pace * planning.LEAST_STEPS <= seconds for x in costs)


def test_a_batch_has_no_more_windows_than_an_epoch(pace):
    sizes = {n: plan(made(discs(64, 20)[:n]))[0].batch_size for n in (1, 3, 5)}
    assert sizes == {1: 2, 3: 2, 5: 4}


def test_too_few_steps_are_said(pace):
    line = next(x for x in plan(made(discs(64, 20)), plan__minutes=0.05)[1] if "num_epochs" in x)
    assert "raise plan.minutes" in line
    line = next(x for x in plan(made(discs(64, 20)), plan__minutes=60)[1] if "num_epochs" in x)
    assert "raise" not in line


def test_a_batch_fits_into_memory_and_divides_over_the_devices(pace, monkeypatch):
    many = made(np.tile(discs(64, 20), (3, 1, 1)))
    assert plan(many)[0].batch_size == 16
    monkeypatch.setattr(planning, "fits", lambda config, size, *_: size <= 5)
    config, lines = plan(many)
    assert config.batch_size == 4 and config.batch_size % MESH.size == 0
    assert "batch_size=16 with 64x64 pixels would not fit into the memory" in "\n".join(lines)
    monkeypatch.setattr(planning, "fits", lambda config, *_: config.data.size <= 128)
    for stated in ({}, {"batch_size": 8}):
        config, lines = plan(thin_lines(), plan__minutes=1000, **stated)
        assert config.data.size == 128
        assert " with 256x256 pixels would not fit into the memory" in "\n".join(lines)
    monkeypatch.setattr(planning, "fits", lambda *_: False)
    assert plan(thin_lines(), batch_size=8)[0].batch_size == 8


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.floats(0.01, 600), st.floats(0.01, 30), st.integers(0, 40), st.sampled_from([2, 4, 16]))
def test_the_length_fits_into_the_time(minutes, pace, images, batch_size):
    config = base.get_config()
    config.data.fit, config.data.size, config.batch_size = "resize", 256, batch_size
    config.num_epochs = config.eval.every_epochs = config.checkpoint.every_epochs = None
    config.plan.minutes = minutes
    dataset = made(np.zeros((40, 256, 256), np.uint8), validation=images)
    choices = planning.Choices(config)
    planning.plan_length(choices, dataset, pace, 60 * minutes)
    found = choices.config
    steps = make_plan(found, 40).total_steps
    assert steps <= planning.MOST_STEPS
    assert found.num_epochs == 1 or steps * pace <= 60 * minutes
    assert 1 <= found.eval.every_epochs <= found.num_epochs
    assert found.num_epochs // found.eval.every_epochs < 2 * planning.VALIDATIONS
    assert found.checkpoint.every_epochs == found.eval.every_epochs


def test_what_cannot_be_planned_is_one_line(pace, monkeypatch, tmp_path):
    config = folder.get_config("auto")
    with pytest.raises(UserError, match=r"^batch_size: has no value; .*--config\.batch_size="):
        check(config)
    config.optim.name = None
    refused(lambda c: planning.plan(c, made(discs(64, 20))), config, "optim.name: has no value")
    monkeypatch.setattr(planning.hosts, "count", lambda: 2)
    refused(lambda c: planning.plan(c, made(discs(64, 20))), config, "a single host")
    refused(folder.get_config, "autO", "configs/folder.py:autO", "there is auto")
    write_case(tmp_path, (0, 255, 255))
    config = folder.get_config("auto")
    config.data.root = str(tmp_path)
    refused(lambda c: open_data(c, tmp_path / "run"), config, "has no run", "data.size")


@pytest.mark.slow
def test_a_planned_run_is_an_ordinary_run(tmp_path):
    write_case(tmp_path / "data", (0, 255, 255))
    run = tmp_path / "run"
    command = (
        "--config=configs/folder.py:auto",
        f"--config.data.root={tmp_path / 'data'}",
        f"--workdir={run}",
        "--config.plan.minutes=0.02",
        "--config.model.width=4",
    )
    code, first = run_here(*command)
    assert code == 0, first
    saved = read_config(run)
    assert None not in saved.values()
    assert "plan         data.size=24: " in first
    planned = {line for line in first.splitlines() if "plan  " in line and "=" in line}
    assert len(planned) == len(OPEN) - 1  # the width was stated
    code, again = run_here(*command, "--config.plan.minutes=9")
    assert code == 0, again
    assert "plan  " not in again  # the run has a plan
    assert f"plan.minutes=9 has no effect: the run in {run} was planned for 0.02" in again
    assert read_config(run) | {"plan.minutes": 0} == saved | {"plan.minutes": 0}
    code, output = run_here("--mode=eval", *command[:3])
    assert code == 0, output
    code, output = run_here(*command, "--config.data.size=16")
    assert code == EXIT_USER_ERROR and "data.size: 24 in the run, 16 in the config" in output
