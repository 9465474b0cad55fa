"""MATLAB files in the structure of SBD's, for tests."""

import pathlib

import numpy as np
import scipy.io
import scipy.sparse


def gtcls(segmentation) -> dict:
    """What SBD's files have: boundaries of each class, sparse, the mask, and its classes."""
    boundaries = np.empty((20, 1), object)
    for i in range(20):
        boundaries[i, 0] = scipy.sparse.csc_matrix(np.asarray(segmentation) == i + 1)
    present = np.setdiff1d(np.abs(segmentation), 0).astype(float)[:, None]
    return {
        "Boundaries": boundaries, "Segmentation": segmentation, "CategoriesPresent": present,
    }  # fmt: skip


def write_mat(path, segmentation, compressed=True) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"GTcls": gtcls(segmentation)}, do_compression=compressed)
    return path
