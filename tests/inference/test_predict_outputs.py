"""Whose masks a folder holds, and what becomes of a prediction whose files cannot be written."""

import contextlib
import errno
import os
import pathlib

import jax
import pytest
from made_files import noise, save
from made_runs import make_run, predict_files, random_variables, small_config

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.distributed import devices
from unet_jax.inference.ensemble import single_network
from unet_jax.inference.output_folder import claim
from unet_jax.inference.outputs import Outputs
from unet_jax.inference.predictor import Predictor


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return make_run(folder, small_config(), channels=1, steps=(3, 7))


def test_masks_of_one_folder_are_of_one_checkpoint(run, tmp_path):
    save(tmp_path / "in/a.png", noise((12, 12)))
    config, output = small_config(), tmp_path / "out"
    predict_files(run, config, tmp_path / "in", output)
    for options in ({"checkpoint": "3"}, {"side": 8}):
        with pytest.raises(UserError, match=r"--output=.*other settings \((steps|tile): "):
            predict_files(run, config, tmp_path / "in", output, **options)
    predict_files(run, config, tmp_path / "in", output)
    retrained = make_run(tmp_path / "retrained", config, channels=1, seed=1)
    for its, fields, key in ((retrained, {}, "weights"), (run, {"eval__threshold": 0.3}, "thresh")):
        with pytest.raises(UserError, match=rf"--output=.*other settings \(.*{key}"):
            predict_files(its, small_config(**fields), tmp_path / "in", output)
    with pytest.raises(UserError, match="exists, but is not a folder of masks"):
        predict_files(run, config, tmp_path / "in", run)
    with pytest.raises(UserError, match="no checkpoint '4'"):
        predict_files(run, config, tmp_path / "in", tmp_path / "other", checkpoint="4")
    assert not (tmp_path / "other").exists()


def test_the_digest_of_an_ensemble_depends_on_all_weights():
    first, second = (random_variables(small_config(), 1, seed) for seed in (1, 2))
    digests = set()
    for variables in ([first, second], [second, first], [first, first], [first], [second]):
        network = models.build(**small_config().model)
        forward = single_network(network, Intensities())
        options = {"networks": [network] * len(variables), "channels": 1, "batch_size": 4}
        predictor = Predictor(forward, variables, mesh=devices.local_mesh(), **options)
        digests.add(predictor.weights_digest())
        again = Predictor(
            forward, variables, mesh=devices.local_mesh(jax.devices()[:1]), **options
        ).weights_digest()
        assert again in digests
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("wanted", "inputs", "said"),
    [
        ("in/*/../../in2/*.png", ("in/x/a.png", "in2/b.png"), "a '..' after a wildcard"),
        ("in/**/*.png", ("in/x.png", "in/overlays/x.png"), "only one can exist"),
    ],
)
def test_inputs_whose_masks_would_have_no_place_are_refused(run, tmp_path, wanted, inputs, said):
    for name in inputs:
        save(tmp_path / name, noise((12, 12)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    for output in ("out", "in/out"):
        with pytest.raises(UserError, match=said):
            predict_files(run, small_config(), tmp_path / wanted, tmp_path / output, overlays=True)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert not (tmp_path / "out").exists()


def test_trouble_with_the_paths_of_one_file_is_that_files(run, tmp_path, monkeypatch, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    odd = os.fsdecode(b"\xff\n[red].png")
    good = ["c" * 251 + ".png", odd, "z.png"]
    bad = {"b" * 255: "name too long", "d.png": "directory", "e.png": "cannot be read"}
    image = save(tmp_path / "a.png", noise((12, 12))).read_bytes()
    folder.mkdir()
    for name in [*good, *bad]:
        (folder / name).write_bytes(image)

    def claim_and_hinder(*arguments):
        claim(*arguments)
        (output / "d.png").mkdir(exist_ok=True)
        (folder / "e.png").unlink(missing_ok=True)

    monkeypatch.setattr("unet_jax.inference.predict.claim", claim_and_hinder)
    config = small_config(eval__batch_size=2)
    options = {"probabilities": False, "overlays": True}
    assert predict_files(run, config, folder / "*", output, **options) == 3
    out, err = capsys.readouterr()
    assert "3 of 6 files are predicted" in out
    for (name, said), line in zip(bad.items(), sorted(err.splitlines()), strict=True):
        assert str(folder / name) in line
        assert said in line.lower()
    for path, more in ((output, {"prediction.json"}), (output / "overlays", set())):
        assert {item.name for item in path.iterdir() if item.is_file()} == {*good} | more
    # When the picture is drawn, the image is read again.
    save(folder / "d.png", noise((12, 12)))
    (output / "d.png").rmdir()
    original = Outputs.opened

    @contextlib.contextmanager
    def opened(self):
        (folder / "d.png").unlink()
        with original(self):
            yield

    monkeypatch.setattr("unet_jax.inference.predict.claim", claim)
    monkeypatch.setattr(Outputs, "opened", opened)
    assert predict_files(run, config, folder / "*.png", output, **options) == 1
    assert "d.png: cannot be read" in capsys.readouterr().err
    assert not (output / "d.png").exists()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, None])
def test_what_the_system_refuses_of_one_file_ends_no_prediction(
    run, tmp_path, monkeypatch, capsys, code
):
    for name in "abc":
        save(tmp_path / f"in/{name}.png", noise((12, 12)))
    original = Outputs.write

    def write(self, *arguments):
        if self.paths[-1].name == "b.png":
            raise OSError(code, "refused", "some/path") if code else OSError("refused")
        original(self, *arguments)

    monkeypatch.setattr(Outputs, "write", write)
    assert predict_files(run, small_config(), tmp_path / "in", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'in/b.png'}: cannot be predicted, ")
    assert line.endswith(": refused")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.png", "c.png"}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "no space is left on the disk"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "Read-only"),
    ],
)
def test_where_no_file_can_be_written_one_line_ends_it(run, tmp_path, monkeypatch, code, said):
    """Finished files are kept, and the same command makes the others."""
    for name in "ab":
        save(tmp_path / f"in/{name}.png", noise((12, 12)))
    original = Outputs.write

    def full(self, *arguments):
        if self.paths[-1].name == "b.png":
            raise OSError(code, os.strerror(code))
        original(self, *arguments)

    monkeypatch.setattr(Outputs, "write", full)
    line = rf"out: cannot be written \({said}.*\); finished files are kept; .* resumes it"
    with pytest.raises(UserError, match=line):
        predict_files(run, small_config(), tmp_path / "in", tmp_path / "out", probabilities=False)
    there = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert there == ["a.png", "prediction.json"]
    monkeypatch.setattr(Outputs, "write", original)
    assert not predict_files(
        run, small_config(), tmp_path / "in", tmp_path / "out", probabilities=False
    )
