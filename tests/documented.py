"""The code of docs/extending*.md as new files of the package, while a test runs."""

import contextlib
import importlib
import pathlib
import re
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
from made_files import save

from unet_jax.core.registry import Registry

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGES = (DOCS / "extending.md", DOCS / "extending-data.md")
BLOCK = re.compile(r"<!-- file: (\S+) -->\n\s*```\w*\n(.*?)\n```$", re.DOTALL | re.MULTILINE)


def code_blocks() -> dict[str, str]:
    """The files of the pages: code by path, such as unet_jax/models/link_unet.py."""
    text = "".join(page.read_text() for page in PAGES)
    return {path: f"{code}\n" for path, code in BLOCK.findall(text)}


def registries(package: str) -> list[Registry]:
    """The registries of a package, wherever they are defined."""
    modules = [module for name, module in sys.modules.items() if name.startswith("unet_jax")]
    found = {id(v): v for module in modules for v in vars(module).values()}
    return [v for v in found.values() if isinstance(v, Registry) and v._package == package]


@contextlib.contextmanager
def added(path: str, folder: pathlib.Path) -> Iterator[types.ModuleType]:
    """Adds a file of a page to its package, and removes it and its entries afterwards.

    The file is not imported here but found by the package's registries, as a new file is. One of a
    package without a registry, such as a config, is imported.

    Args:
      path: the file's path in the repository.
      folder: an empty folder, to which the file is written.
    """
    name = ".".join(pathlib.Path(path).with_suffix("").parts)
    package = name.rpartition(".")[0]
    (folder / pathlib.Path(path).name).write_text(code_blocks()[path])
    with pytest.MonkeyPatch.context() as patch:
        parent = importlib.import_module(package)
        for registry in registries(package):
            assert len(registry)  # the entries of the package itself, before the file is there
            patch.setattr(registry, "_entries", dict(registry._entries))
            patch.setattr(registry, "_searched", False)
        patch.setattr(parent, "__path__", [*parent.__path__, str(folder)])
        importlib.invalidate_caches()
        try:
            for registry in registries(package):
                assert len(registry)
            yield importlib.import_module(name)
        finally:
            sys.modules.pop(name, None)
            if hasattr(parent, name.rpartition(".")[2]):
                delattr(parent, name.rpartition(".")[2])


def write_shapes(folder: pathlib.Path) -> pathlib.Path:
    """Writes ten images and soft masks, as the data set of the page has them."""
    rng = np.random.default_rng(0)
    for i in range(10):
        mask = np.kron(rng.choice([0, 100, 150, 255], (4, 4)), np.ones((8, 8))).astype(np.uint8)
        image = mask // 2 + rng.integers(0, 99, mask.shape, np.uint8)
        save(folder / "images" / f"{i}.png", image)
        save(folder / "masks" / f"{i}.png", mask)
    return folder
