"""The networks of all formats on the same real images: the same masks, but for what is stated."""

import numpy as np
import pytest
import tifffile
from launched import run_here

import unet_jax
from benchmarks import export
from benchmarks.exported import export_all

FIELDS = (
    "--config=configs/isbi.py:small",
    "--config.model.width=4",
    "--config.model.depth=2",
    "--config.data.size=64",
    "--config.num_epochs=2",
    "--config.eval.threshold=0.6",
)
SIZES = ((157, 211), (256, 97))  # odd, and not multiples of what the network needs
COUNT = 20
# The largest difference of a probability, the share of pixels that may be decided otherwise, and
# whether these have to be ties. Float32 rounds sums in another order; no pixel differed. Float16
# has 11 significant bits and 8-bit integers 8, which moves edges: 0.13 % and 2.9 % of the pixels.
EXACT = (1e-5, 1e-5, True)
ALLOWED = {"onnx_float16": (0.02, 0.003, False), "onnx_int8": (0.3, 0.05, False)}


@pytest.fixture(scope="module")
def run(real_data, tmp_path_factory) -> unet_jax.Run:
    """A run on ISBI's slices that has learnt to tell membranes from cells, roughly."""
    folder = tmp_path_factory.mktemp("runs") / "isbi"
    code, output = run_here(
        *FIELDS, f"--config.data.root={real_data / 'isbi'}", f"--workdir={folder}"
    )
    assert code == 0, output
    return unet_jax.load_run(folder)


@pytest.fixture(scope="module")
def images(real_data) -> list[np.ndarray]:
    """Parts of slices that the run has not seen, uint8 [1, H, W, 1]."""
    slices = tifffile.imread(real_data / "isbi/test-volume.tif")[:COUNT, ..., None]
    sizes = [SIZES[number % len(SIZES)] for number in range(COUNT)]
    return [x[None, 16 : 16 + h, 32 : 32 + w] for x, (h, w) in zip(slices, sizes, strict=True)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # bioimageio.spec leaves files open
def test_each_format_gives_the_same_masks(run, images, tmp_path):
    predict = export.network_of(run)
    expected = [predict(image) for image in images]
    share = np.mean([mask.mean() for mask, _ in expected])
    assert 0.2 < share < 0.9  # neither all cell nor all membrane
    exported = export_all(run.folder, run.config, tmp_path, threads=1)
    assert len(exported) == 8
    for name, network in exported.items():
        found = [network.apply(image) for image in images]
        assert all(mask.dtype == np.uint8 for mask, _ in found)
        result = export.differences(found, expected, run.config.eval.threshold)
        largest, others, ties = ALLOWED.get(name, EXACT)
        assert result["pixels"] == sum(image.size for image in images)
        assert result["largest"] <= largest, (name, result)
        assert result["others"] <= others * result["pixels"], (name, result)
        assert not (ties and result["certain_others"]), (name, result)


def test_differences_are_counted():
    values = np.array([[[0.2], [0.6], [0.600001], [0.9]]], np.float32)
    expected = [((values > 0.6)[None, ..., 0].astype(np.uint8), values[None])]
    mask = np.array([[[1, 0, 0, 1]]], np.uint8)
    found = export.differences([(mask, values[None] + np.float32(0.1))], expected, 0.6)
    assert found.pop("largest") == pytest.approx(0.1)
    assert found == {"pixels": 4, "others": 2, "certain_others": 1}


def test_the_tables_are_markdown(capsys):
    scores = {"scores": {"dice": 0.9, "iou": 0.8, "recall": 0.7}}
    times = {"ms": 20.0, "range_ms": [10.0, 30.0], "cpu_ms": 35.0}
    compared = {"bytes": 2**20, "largest": 0.5, "pixels": 200, "others": 3, "certain_others": 1}
    results = {"jax": scores | times, "onnx": scores | times | {"ms": 10.0} | compared}
    content = {"images": 2, "split": "test", "batch": 2, "size": [8, 9], "rounds": 3, "gflop": 7.0}
    export.print_tables(content | {"results": results})
    lines = capsys.readouterr().out.splitlines()
    assert "| onnx | 1.00 | 0.9000 | 0.7000 | 5.0e-01 | 3 (1.5 %) | 1 |" in lines
    assert "| onnx | 10 (10 – 30) | 200.00 | 0.50 | 35 | 200 |" in lines
    for line in lines:
        if line.startswith("|"):
            assert line.count("|") in (8, 7)


def test_times_are_taken_in_turns():
    order: list[str] = []
    runs = {name: lambda n=name: order.append(n) for name in "ab"}
    found = export.measure(runs, rounds=2)
    assert order == list("aabbaabb")
    assert found.keys() == {"a", "b"} and found["a"]["range_ms"][0] <= found["a"]["ms"]


def test_a_softmax_s_margin_is_that_of_the_two_largest():
    values = np.array([[[[0.5, 0.2, 0.3]]]])
    np.testing.assert_allclose(export.margin(values, 0.6), [[[0.2]]])
