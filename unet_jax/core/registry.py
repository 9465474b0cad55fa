"""Registries: objects that are found by name and registered where they are defined."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Maps names to objects that the modules of a package register when they are imported.

    All modules of the package are imported at the first access. A new module of the package
    therefore needs no entry in any other file.

        NETWORKS = Registry("unet_jax.models")

        @NETWORKS.register("unet")
        class UNet(nn.Module): ...

    Args:
      package: full name of the package, whose modules are imported; its subpackages too, but not
        the modules in those.
    """

    def __init__(self, package: str):
        self._package, self._searched = package, False
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that registers an object and returns it unchanged.

        Raises:
          ValueError: another object has this name.
        """

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{name!r} is registered twice in {self._package}")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        return self._found()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())

    def _found(self) -> dict[str, T]:
        if not self._searched:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
                importlib.import_module(module.name)
            self._searched = True
        return self._entries
