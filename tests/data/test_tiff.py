import numpy as np
import pytest
import tifffile

from unet_jax.data.tiff import read_tiff
from unet_jax.errors import UserError


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_cut_file_is_refused_at_every_length(tmp_path, compression):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, pixels, compression=compression, photometric="minisblack")
    np.testing.assert_array_equal(read_tiff(path), pixels)
    content = path.read_bytes()
    refused = 0
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        try:
            read = read_tiff(path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            np.testing.assert_array_equal(read, pixels)
    assert refused > len(content) // 7 * 0.8
