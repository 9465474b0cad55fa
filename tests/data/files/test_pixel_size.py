"""The physical pixel size in the metadata of a TIFF, as the programs of the field write it."""

import numpy as np
import pytest
import tifffile
from made_files import noise, save
from ml_collections import ConfigDict

from configs import folder
from unet_jax.core.lengths import unit_of
from unet_jax.data.files.images import scan_image
from unet_jax.data.sources.folder import open_folder

PROJECTED_IN_METRES = (1, 1, 0, 2, 1024, 0, 1, 1, 3076, 0, 1, 9001)
GEOGRAPHIC = (1, 1, 0, 2, 1024, 0, 1, 2, 2054, 0, 1, 9102)


def ome(**metadata):
    return {"ome": True, "metadata": {"axes": "YX", **metadata}}


def imagej(per_unit, **metadata):
    return {"imagej": True, "resolution": per_unit, "metadata": metadata}


def tagged(per_unit, unit):
    return {"resolution": per_unit, "resolutionunit": unit, "metadata": None}


def geo(keys, scale=(0.5, 0.25, 0.0)):
    tags = [(33550, 12, 3, scale, False), (34735, 3, len(keys), keys, False)]
    return {"extratags": tags, "metadata": None}


def written(path, ome=False, imagej=False, **options):
    with tifffile.TiffWriter(path, ome=ome, imagej=imagej) as file:
        file.write(noise((20, 24)), photometric="minisblack", **options)
    return path


STATED = {
    "OME, µm by default": (ome(PhysicalSizeX=0.5, PhysicalSizeY=0.25), (0.25, 0.5)),
    "OME, nm": (
        ome(PhysicalSizeX=4, PhysicalSizeXUnit="nm", PhysicalSizeY=6, PhysicalSizeYUnit="nm"),
        (6e-3, 4e-3),
    ),
    "ImageJ, micron": (imagej((4, 2), unit="micron"), (0.5, 0.25)),
    "ImageJ, um": (imagej((4, 4), unit="um"), (0.25, 0.25)),
    "ImageJ, escaped": (imagej((4, 4), unit="\\u00B5m"), (0.25, 0.25)),
    "ImageJ, mm": (imagej((2, 2), unit="mm"), (500, 500)),
    "ImageJ, a microscope's cm": (imagej((20000, 20000), unit="cm"), (0.5, 0.5)),
    "tag, a microscope's cm": (tagged((20000, 10000), "CENTIMETER"), (1, 0.5)),
    "tag, a microscope's inch": (tagged((50800, 50800), "INCH"), (0.5, 0.5)),
    "GeoTIFF in metres": (geo(PROJECTED_IN_METRES), (0.25e6, 0.5e6)),
}
NOT_STATED = {
    "nothing": {"metadata": None},
    "72 dpi": tagged((72, 72), "INCH"),
    "96 dpi in cm": tagged((37.8, 37.8), "CENTIMETER"),
    "a printer's 2400 dpi": tagged((2400, 2400), "INCH"),
    "no unit": tagged((20000, 20000), "NONE"),
    "OME without size": ome(),
    "OME, one side": ome(PhysicalSizeX=0.5),
    "OME, unknown unit": ome(
        PhysicalSizeX=1, PhysicalSizeXUnit="pixel", PhysicalSizeY=1, PhysicalSizeYUnit="pixel"
    ),
    "OME, 0": ome(PhysicalSizeX=0, PhysicalSizeY=1),
    "ImageJ without unit": imagej((4, 4)),
    "ImageJ, pixel": imagej((1, 1), unit="pixel"),
    "ImageJ, a camera's inch": imagej((72, 72), unit="inch"),
    "GeoTIFF in degrees": geo(GEOGRAPHIC),
    "GeoTIFF, damaged keys": geo((1, 1, 0, 9, 1024, 34737, 1, 1, 3076)),
    "GeoTIFF, 0": geo(PROJECTED_IN_METRES, (0.0, 0.5, 0.0)),
}


@pytest.mark.parametrize("how", STATED)
def test_the_stated_size_is_read(tmp_path, how):
    options, expected = STATED[how]
    found = scan_image(written(tmp_path / "a.tif", **options)).pixel_size
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("how", NOT_STATED)
def test_other_metadata_state_no_size(tmp_path, how):
    assert scan_image(written(tmp_path / "a.tif", **NOT_STATED[how])).pixel_size == ()


def test_a_turned_image_has_turned_pixels(tmp_path):
    options = tagged((20000, 10000), "CENTIMETER") | {"extratags": [(274, 3, 1, 6, False)]}
    found = scan_image(written(tmp_path / "a.tif", **options))
    assert found.size == (24, 20)
    assert found.pixel_size == pytest.approx((0.5, 1))


def test_a_png_states_no_size(tmp_path):
    save(tmp_path / "a.png", noise((20, 24)))
    assert scan_image(tmp_path / "a.png").pixel_size == ()


def opened(root, last) -> tuple:
    """Opens six images, the last of them written with other options."""
    data: ConfigDict = folder.get_config().data
    data.root, data.split, data.split_seed = str(root), (2, 2, 2), 0
    for sub in ("images", "masks"):
        (root / sub).mkdir()
    for i in range(6):
        options = imagej((2, 4 + i), unit="micron") if i < 5 else last
        written(root / "images" / f"{i}.tif", **options)
        save(root / "masks" / f"{i}.png", 255 * np.eye(20, 24, dtype=np.uint8))
    dataset = open_folder(data)
    return dataset, dataset.splits["train"]


def test_a_data_set_has_a_unit_if_every_image_states_a_size(tmp_path):
    dataset, train = opened(tmp_path, imagej((2, 9), unit="micron"))
    assert dataset.length_unit == "um"
    for i, name in enumerate(train.names):
        assert train.spacing(i, "um") == pytest.approx((1 / (4 + int(name)), 0.5))
        assert train.spacing(i, "nm") == pytest.approx((1000 / (4 + int(name)), 500))


def test_a_data_set_has_no_unit_if_an_image_states_none(tmp_path):
    assert opened(tmp_path, tagged((72, 72), "INCH"))[0].length_unit == ""


@pytest.mark.parametrize(
    ("micrometres", "unit"),
    [(0.004, "nm"), (0.1, "um"), (20, "um"), (500, "mm"), (3e4, "m"), (1e7, "m"), (1e-6, "nm")],
)
def test_units_suit_the_instrument(micrometres, unit):
    assert unit_of(micrometres) == unit
