"""Images of other types than 8 bits come to the network as their 8-bit copies do."""

import numpy as np
import pytest
from made_cases import PAIRS, scene, tif, write_case
from made_files import refused

from configs import folder as folder_config
from unet_jax.core.intensities import Intensities
from unet_jax.data import open_dataset
from unet_jax.runs.experiment import resolve_intensities

# The stored values to which the grey values 0 to 255 of a scene are mapped.
CASES = {
    "grey16-low": (np.uint16, 120, 420),
    "grey16-12bit": (np.uint16, 300, 3300),
    "signed": (np.int16, -1000, 1000),
    "float32": (np.float32, 0, 1),
    "wide": (np.int32, -(10**6), 10**6),
}


def stored(i: int, name: str) -> np.ndarray:
    dtype, low, high = CASES[name]
    return (low + scene(i)[0] / 255 * (high - low)).astype(dtype)


def folder(root, name: str):
    """The config of a folder of a case, and its data set."""
    write_case(root, (0, 255, 255))
    for i in range(PAIRS):
        (root / f"images/case{i:02d}.png").unlink()
        tif()(root / f"images/case{i:02d}", stored(i, name))
    config = folder_config.get_config()
    config.data.root = str(root)
    return config, open_dataset(config.data)


@pytest.mark.parametrize("name", CASES)
def test_the_network_receives_what_it_receives_of_the_8_bit_copy(tmp_path, name):
    config, dataset = folder(tmp_path, name)
    dtype, low, high = CASES[name]
    resolved, (note,) = resolve_intensities(config, dataset)
    assert note.startswith(f"{np.dtype(dtype)} images: ")
    assert "0.5 and 99.5 percentiles of the training images" in note
    assert (resolved.data.normalize, resolved.data.dtype) == ("percentile", np.dtype(dtype).name)
    split = dataset.splits["train"]
    copies = np.stack([scene(int(case[4:6]))[0] for case in split.names])[..., None]
    ends = np.percentile(copies, (0.5, 99.5))
    tolerance = 255 / (high - low) if np.dtype(dtype).kind != "f" else 1e-3
    found = (np.array(resolved.data.limits) - low) / (high - low) * 255
    np.testing.assert_allclose(found, ends, atol=2 * tolerance)
    mapping, of_copy = Intensities.of(resolved.data), Intensities(limits=tuple(ends))
    for k, copy in enumerate(copies):
        received = mapping.network_input(split[k]["image"])
        expected = of_copy.network_input(copy)
        np.testing.assert_allclose(received, expected, atol=4 * tolerance / np.ptp(ends) + 1e-3)
        assert np.ptp(received) > 1.5  # not a sliver of [-1, 1]


def test_values_that_are_no_number_are_refused(tmp_path):
    config, _ = folder(tmp_path, "float32")
    pixels = stored(3, "float32")
    pixels[4, 5] = np.nan
    tif()(tmp_path / "images/case03", pixels)
    refused(open_dataset, config.data, "images/case03.tif", "1 pixels are not a number")
