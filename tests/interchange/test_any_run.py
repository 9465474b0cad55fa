"""Exports of runs with a chosen threshold, small images, 16 bits or hardly any foreground."""

import json
import pathlib
import string
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from launched import launch, numbers, run_here
from made_files import noise, save
from made_runs import make_run, small_config

from unet_jax.api import load_run
from unet_jax.core.errors import UserError
from unet_jax.interchange import bioimageio
from unet_jax.interchange.onnx import NETWORK, build_model, to_input_values
from unet_jax.interchange.onnx_variants import _calibration_images

ABOUT = ("--author=A. Person, An Institute", "--license=CC-BY-4.0", "--cite=Data, 10.1234/x")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A run on images of 16 bits that are smaller than the network's multiple, 32 pixels."""
    folder = tmp_path_factory.mktemp("any")
    for number in range(7):
        image = noise((20, 24), seed=number).astype(np.uint16) * 257
        save(folder / "data" / "images" / f"{number}.png", image)
        save(folder / "data" / "masks" / f"{number}.png", 255 * (image > 2**15).astype(np.uint8))
    fields = {
        "data.root": folder / "data",
        "data.split": "(4,1,2)",
        "data.normalize": "range",
        "data.size": 32,
        "data.fit": "resize",
        "model.width": 2,
        "model.depth": 5,
        "batch_size": 4,
        "num_epochs": 2,
        "eval.threshold": 0.0,
    }
    code, text = run_here(
        "--config=configs/folder.py",
        f"--workdir={folder / 'run'}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    )
    assert code == 0, text
    return folder / "run"


@pytest.mark.slow
def test_every_format_takes_the_run(run, tmp_path):
    digest = json.loads((run / "config.json").read_text())["digest"]
    assert numbers(run)["config_digest"] == digest
    evaluated = load_run(run).evaluate(run.parent / "data")
    assert (evaluated["config_digest"], evaluated["threshold"]) == (
        digest,
        numbers(run)["threshold"],
    )
    for name in ("onnx", "onnx_float16", "onnx_int8", "pytorch", "stablehlo"):
        output = tmp_path / name
        code, text = run_here(
            "--mode=export", f"--format={name}", f"--workdir={run}", f"--output={output}"
        )
        assert code == 0, text
        if name.startswith("onnx"):
            model = onnx.load(output / NETWORK)
            facts = {entry.key: entry.value for entry in model.metadata_props}
            assert not facts or facts["config_digest"] == digest
    output = tmp_path / "package"
    flags = ("--mode=export", "--format=bioimageio", f"--workdir={run}", f"--output={output}")
    code, text = launch(*flags, *ABOUT)  # in a process of its own: it leaves files open
    assert code == 0 and (output / "network.zip").exists(), text


def dataset_of(*images: np.ndarray) -> SimpleNamespace:
    class Images(list):
        def read(self, index: int) -> tuple[np.ndarray, None]:
            return self[index], None

    split = Images(images)
    return SimpleNamespace(splits={"test": split}, final_split="test", classes=("no", "cell"))


def test_the_test_image_of_a_package_has_foreground(tmp_path):
    config = small_config(model__depth=1, data__dtype="uint8")
    run = make_run(tmp_path / "run", config, 1, calm=True)
    images = [noise((20, 24, 1), seed=seed) for seed in range(2)]
    highest = [load_run(run).predict(image).probabilities.max() for image in images]
    low, high = (images[i] for i in np.argsort(highest))
    config.eval.threshold = float(np.mean(highest))
    (tmp_path / NETWORK).write_bytes(build_model(run, config, "best").SerializeToString())
    bioimageio._write_examples(tmp_path, config, dataset_of(low, high))
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy")[0, 0], high[..., 0])
    with pytest.raises(UserError, match="finds nothing else in the 1 images of the test split"):
        bioimageio._write_examples(tmp_path, config, dataset_of(low))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_model_of_8_bits_gets_values_of_8_bits(dtype):
    image = np.linspace(0, np.iinfo(dtype).max, 24 * 32).astype(dtype).reshape(24, 32, 1)
    config = small_config()
    assert not config.data.dtype
    values = to_input_values(image, config)
    assert values.dtype == np.uint8 and (values.min(), values.max()) == (0, 255)
    (calibrated,) = _calibration_images(dataset_of(image).splits["test"], config)
    np.testing.assert_array_equal(calibrated[0, 0], values[..., 0])
    config.data.dtype = np.dtype(dtype).name
    assert to_input_values(image, config) is image


LINKS = st.one_of(
    st.builds(
        "10.{}/{}".format, st.integers(1000, 99999), st.text(string.ascii_letters, min_size=1)
    ),
    st.sampled_from(
        ["https://en.org/U-Net_(network)", "10.1016/S0140(05)67", "https://a.b/c?d=[e]"]
    ),
)


@given(LINKS, st.sampled_from(["", ".", ",", ").", "),", "]", '".', ")", ";", ".)", "'"]))
def test_a_link_ends_before_the_punctuation_of_its_sentence(link, after):
    pytest.importorskip("bioimageio.spec")
    entry = bioimageio._citation(f"The data ({link}{after} were used")
    assert str(entry.doi or entry.url) == link
