"""Objects are found by name wherever a module of the package registers them."""

import sys

import pytest

from unet_jax.core.registry import Registry


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty package whose modules may use the registry `shapes.ALL`."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from unet_jax.core.registry import Registry\nALL = Registry('shapes')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "shapes"]:
        del sys.modules[name]


def test_a_new_file_is_enough(package):
    import shapes

    code = "import shapes\n@shapes.ALL.register('square')\ndef area(side): return side**2\n"
    (package / "square.py").write_text(code)
    assert list(shapes.ALL) == ["square"] and len(shapes.ALL) == 1
    assert shapes.ALL["square"](3) == 9
    assert "circle" not in shapes.ALL


def test_a_module_that_fails_is_not_forgotten(package):
    import shapes

    (package / "broken.py").write_text("import no_such_module\n")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            list(shapes.ALL)


def test_a_name_is_registered_once():
    registry = Registry("unet_jax.metrics")
    registry.register("a")(1)
    with pytest.raises(ValueError, match="'a' is registered twice"):
        registry.register("a")(2)
