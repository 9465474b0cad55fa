import struct
import time
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_files import noise, refused
from made_mats import gtcls, write_mat

from unet_jax.core.errors import UserError
from unet_jax.data.files import matlab
from unet_jax.data.files.matlab import read_mat


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    segmentation=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)),
    compressed=st.booleans(),
)
def test_masks_are_read_as_scipy_reads_them(tmp_path_factory, segmentation, compressed):
    path = write_mat(tmp_path_factory.getbasetemp() / "one.mat", segmentation, compressed)
    expected = scipy.io.loadmat(path)["GTcls"][0]["Segmentation"][0]
    np.testing.assert_array_equal(expected, segmentation)
    np.testing.assert_array_equal(read_mat(path), expected)
    assert read_mat(path).dtype == np.uint8


@pytest.mark.parametrize("compressed", [False, True])
def test_other_variables_are_ignored(tmp_path, compressed):
    for length in range(8):
        variables = {"note": "x" * length, "GTcls": gtcls(noise((3, 4), below=21)), "last": 1}
        scipy.io.savemat(tmp_path / "one.mat", variables, do_compression=compressed)
        np.testing.assert_array_equal(read_mat(tmp_path / "one.mat"), noise((3, 4), below=21))


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_fail_with_one_line(tmp_path, compressed):
    values = noise((12, 15), below=21)
    path, rng = write_mat(tmp_path / "one.mat", values, compressed), np.random.default_rng(0)
    content, refusals = path.read_bytes(), 0
    for _ in range(100):
        damaged = bytearray(content)
        damaged[rng.integers(128, len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged if rng.integers(2) else content[: rng.integers(len(content))])
        try:
            result = read_mat(path)
            assert not compressed or (result == values).all()  # zlib has a checksum
        except UserError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > 30


def packed(path, data: bytes) -> None:
    """Replaces the file's first variable with the compressed `data`."""
    content = zlib.compress(data)
    path.write_bytes(path.read_bytes()[:128] + struct.pack("<II", 15, len(content)) + content)


def test_a_file_of_many_empty_elements_is_refused_quickly(tmp_path):
    path = write_mat(tmp_path / "one.mat", noise((12, 15), below=21))
    packed(path, bytes(matlab.MAX_BYTES + 8))
    assert path.stat().st_size < matlab.MAX_BYTES / 500
    refused(read_mat, path, "more than 16777216 bytes uncompressed")
    size = matlab.MAX_BYTES - 8
    packed(path, struct.pack("<II", 14, size) + bytes(size))
    began = time.process_time()
    refused(read_mat, path)
    assert time.process_time() - began < 10


def test_data_compressed_twice_is_not_uncompressed(tmp_path):
    path = write_mat(tmp_path / "one.mat", noise((12, 15), below=21))
    np.testing.assert_array_equal(read_mat(path), noise((12, 15), below=21))
    packed(path, path.read_bytes()[128:])
    refused(read_mat, path)


def test_a_file_that_uncompresses_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(matlab, "MAX_BYTES", 2**16)
    path = write_mat(tmp_path / "one.mat", noise((12, 15), below=21))
    packed = zlib.compress(bytes(2**20))
    path.write_bytes(path.read_bytes()[:128] + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(UserError, match=r"more than 65536 bytes uncompressed"):
        read_mat(path)
