"""Archives as anyone may write them, honest or not."""

import io
import tarfile
import zipfile

import pytest

from unet_jax.core.errors import UserError
from unet_jax.data.download.archives import fetch

STACKS = ("train-volume.tif", "train-labels.tif", "test-volume.tif")


def make_zip(path, *members):
    """Members: a name or ZipInfo, and its content."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


def make_tar(path, *members):
    """Members: a name or TarInfo, and its content."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as file:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def zip_info(name, mode=0):
    info = zipfile.ZipInfo(name)
    info.filename, info.external_attr = name, mode << 16
    return info


def tar_info(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def files_in(folder):
    return {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


def refuse(archive, root, *parts):
    """Checks that it fails with one line that contains `parts`; returns the line."""
    with pytest.raises(UserError) as error:
        fetch(archive, root)
    line = str(error.value)
    assert "\n" not in line
    for part in parts:
        assert str(part) in line
    return line
