"""A peer for tests, in the test's process: it knows the labels, and is wrong at some pixels."""

import json
import pathlib
import time

import numpy as np

from benchmarks.peers.exchange import (
    OWN,
    History,
    read_cases,
    write_probability,
    write_training,
)
from benchmarks.peers.peer import RUN, Peer, Setting
from unet_jax.metrics import overlap


class Fake(Peer):
    """Predicts the labels but for a share of the pixels, another one for each seed.

    Args:
      name: of the peer.
      wrong: share of the pixels.
    """

    def __init__(self, name: str, wrong: float, augments_test: bool = False):
        self.name, self.title, self.wrong = name, f"the fake {name}", wrong
        self.tta = augments_test
        self.prepared, self.trained = 0, []

    def prepare(self, setting: Setting) -> None:
        self.prepared += 1

    def train(self, setting: Setting, folder: pathlib.Path, seed: int) -> None:
        self.trained.append(seed)
        (folder / RUN).mkdir()
        history, started = History(folder / RUN), time.time()
        for step in (1, 2):
            history.add(step, step / 2, "train", loss=1 / step)
            history.add(step, step / 2, "validation", dice=step / 4)
        versions = {"fake": "1.0"}
        write_training(folder, started, started + 60, steps=2, parameters=7, versions=versions)

    def predict(
        self, setting: Setting, folder: pathlib.Path, split: str, tta: bool, into: pathlib.Path
    ) -> None:
        rng = np.random.default_rng(int(folder.name[-1]))
        values = []
        for case in read_cases(setting.images, split):
            truth = np.where(rng.random(case.label.shape) < self.wrong, 1 - case.label, case.label)
            values.append(overlap.class_metrics(overlap.confusion(case.label, truth, 2))["dice"][1])
            write_probability(into, case.name, 0.1 + 0.8 * truth)
        if split == "test" and not tta:
            (folder / OWN).write_text(json.dumps({"dice": float(np.mean(values))}))

    def augments_test(self, folder: pathlib.Path) -> bool:
        return self.tta

    def recipe(self, setting: Setting, folder: pathlib.Path) -> str:
        return f"knows all but {self.wrong:.0%} of the pixels"
