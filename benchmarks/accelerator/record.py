"""The results of one part, which its process writes while it runs."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

from unet_jax.core.files import write_json

OUT_OF_TIME = "skipped: out of time"


class Recorder:
    """Writes a part's results to a file, completely each time, so that a killed part leaves them.

    Args:
      path: the JSON file.
      seconds: time that the part has from now on.

    Attributes:
      content: `rows`, a table; `summary`, further results by name; and `failed` if the part failed.
    """

    def __init__(self, path: pathlib.Path, seconds: float):
        self._path, self._end = path, time.monotonic() + seconds
        self.content: dict[str, Any] = {"rows": [], "summary": {}}

    @property
    def remaining(self) -> float:
        """Seconds that the part still has."""
        return self._end - time.monotonic()

    def write(self, rows: Sequence[dict[str, Any]], **summary: Any) -> None:
        """Replaces the rows, and adds to the summary."""
        self.content["rows"] = list(rows)
        self.content["summary"] |= summary
        write_json(self._path, self.content)

    def fail(self, reason: str) -> None:
        """Records why the part failed, beside what it has measured."""
        self.content["failed"] = reason
        write_json(self._path, self.content)
