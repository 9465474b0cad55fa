"""Tests of the comparison's command with peers that need nothing but the test's process."""

import json

import numpy as np
import pytest
from fake_peer import Fake
from made_data import TINY
from pictures import _no_pictures as _no_pictures
from PIL import Image

from benchmarks.peers import compare
from benchmarks.peers.exchange import write_probability
from unet_jax.core.errors import UserError
from unet_jax.core.stop import Interrupted

# ml_collections loads configs with a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def command(stacks, tmp_path):
    """Runs the command with these peers; returns its exit code."""

    def run(*peers: Fake, minutes: float = 1, seeds: str = "0,1") -> int:
        arguments = [*TINY, f"--config.data.root={stacks}", f"--out={tmp_path / 'out'}"]
        arguments += [f"--minutes={minutes}", f"--seeds={seeds}"]
        by_name = {peer.name: peer for peer in peers}
        return compare.main([*arguments, f"--peers={','.join(by_name)}"], by_name)

    return run


def test_peers_are_trained_scored_and_compared_once(command, tmp_path, capsys):
    ours, other = Fake("ours", 0.1, augments_test=True), Fake("other", 0.3)
    assert command(ours, other) == 0
    out = tmp_path / "out"
    content = json.loads((out / "peers.json").read_text())
    assert content["minutes"] == 1 and content["absent"] == {}
    for peer in (ours, other):
        entry = content["peers"][peer.name]
        for seed in ("0", "1"):
            dice = entry["reports"][seed]["aggregate"]["dice"]["mean"]
            assert dice == pytest.approx(entry["own_dice"][seed], abs=1e-12)
            assert 1 - 1.5 * peer.wrong < dice < 1
        assert entry["trainings"]["0"]["seconds"] == 60
    assert content["peers"]["ours"]["augmented"].keys() == {"0", "1"}
    assert content["peers"]["other"]["augmented"] == {}
    page = (out / "peers.md").read_text()
    assert page in capsys.readouterr().out
    assert "| the fake other | Dice | +0." in page
    assert "best V^Rand on validation" in page
    assert "knows all but 30% of the pixels (fake 1.0)" in page
    for name in ("compare.html", "curves.png", "ours-seed1/report-tta.html"):
        assert (out / name).stat().st_size > 0
    assert len([*out.glob("overlays-*.png")]) == 2
    assert page.count("| 0.5, for all peers |") == 3  # one is with test-time augmentation
    (out / "overlays-that-were-shown-before.png").write_bytes(b"")
    report = json.loads((out / "other-seed1/report.json").read_text())
    report["thresholds"].pop(1)  # an earlier version had no row for all peers
    (out / "other-seed1/report.json").write_text(json.dumps(report))

    assert command(ours, other) == 0
    assert ours.trained == [0, 1] and other.trained == [0, 1]
    assert command(ours, other, seeds="0,1,2") == 0
    assert ours.trained == [0, 1, 2]
    assert (out / "peers.md").read_text().count("| 0.5, for all peers |") == 2
    assert len([*out.glob("overlays-*.png")]) == 2


def test_a_peer_that_fails_is_named_and_the_others_go_on(command, tmp_path, monkeypatch, capsys):
    good, bad, missing = Fake("ours", 0.1), Fake("bad", 0.1), Fake("missing", 0.1)

    def fail(*_):
        raise UserError("failed with exit code 1; see a log")

    monkeypatch.setattr(bad, "train", fail)
    monkeypatch.setattr(missing, "install", fail)
    assert command(good, bad, missing, seeds="0") == 1
    page = (tmp_path / "out" / "peers.md").read_text()
    assert "- **bad** is not compared: seed 0: failed with exit code 1; see a log" in page
    assert "- **missing** is not compared: failed with exit code 1" in page
    assert "| the fake ours |" in page and missing.prepared == 0


def test_an_interrupted_training_starts_anew_and_predictions_are_kept(
    command, tmp_path, monkeypatch
):
    peer = Fake("ours", 0.1)
    folder = tmp_path / "out" / "ours-seed0"

    def train(setting, at, seed, real=peer.train):
        (at / "left").touch()
        raise Interrupted

    monkeypatch.setattr(peer, "train", train)
    assert command(peer, seeds="0") == 75
    assert (folder / "left").exists()
    monkeypatch.undo()

    def predict(setting, at, split, tta, into, real=peer.predict):
        real(setting, at, split, tta, into)
        if split == "test":
            raise Interrupted

    monkeypatch.setattr(peer, "predict", predict)
    assert command(peer, seeds="0") == 75
    assert not (folder / "left").exists()
    before = (folder / "predictions/validation/probabilities").stat().st_mtime_ns
    assert not (folder / "predictions/test").exists()
    monkeypatch.undo()
    assert command(peer, seeds="0") == 0
    assert peer.trained == [0]
    assert (folder / "predictions/validation/probabilities").stat().st_mtime_ns == before


def test_a_folder_of_another_comparison_is_refused(command, tmp_path, capsys):
    peer = Fake("ours", 0.1)
    assert command(peer, seeds="0") == 0
    assert command(peer, seeds="0", minutes=2) == 2
    assert "holds another comparison (its minutes differ)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda p: p.unlink(), "did not predict this image"),
        (lambda p: _rewrite(p, lambda x: x.T[:-1]), "but the image is (64, 64)"),
        (lambda p: _rewrite(p, lambda x: 2 * x), "has values outside 0 to 1"),
        (lambda p: _rewrite(p, lambda x: x * np.nan), "has values outside 0 to 1"),
    ],
)
def test_wrong_predictions_are_refused(command, tmp_path, monkeypatch, capsys, wrong, message):
    peer = Fake("ours", 0.1)

    def predict(setting, folder, split, tta, into, real=peer.predict):
        real(setting, folder, split, tta, into)
        wrong(sorted((into / "probabilities").iterdir())[0])

    monkeypatch.setattr(peer, "predict", predict)
    assert command(peer, seeds="0") == 1
    assert message in capsys.readouterr().out


def _rewrite(path, change):
    values = change(np.asarray(Image.open(path)))
    write_probability(path.parents[1], path.stem, values)


def test_an_unknown_peer_is_refused(stacks, tmp_path, capsys):
    arguments = [*TINY, f"--config.data.root={stacks}", f"--out={tmp_path}", "--peers=monai"]
    assert compare.main(arguments, {"ours": Fake("ours", 0)}) == 2
    assert "no peer monai; there are ours" in capsys.readouterr().err
