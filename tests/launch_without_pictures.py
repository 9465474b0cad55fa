"""`launch.py`, but its reports have no pictures: drawing takes a third of a small run's time.

    python tests/launch_without_pictures.py --config=... --workdir=...

is a start of the launcher, for tests that start runs as processes and look at their numbers.
"""

import pathlib
import runpy
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[1]


def leave_out_pictures(replace: Callable[[object, str, object], None]) -> None:
    """Leaves out what matplotlib draws, as PNG and as SVG; `replace` is `setattr` or pytest's."""
    from unet_jax.reporting import charts, report

    replace(report, "overlay_figure", lambda overlays, classes: None)
    replace(charts, "figure", lambda drawn: None)
    replace(charts, "png", lambda drawn: b"\x89PNG")
    replace(charts, "svg", lambda chart: "<svg/>")


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    from unet_jax.core.tuning import restart_with_huge_pages

    restart_with_huge_pages()  # as the launcher does, before anything large is imported
    leave_out_pictures(setattr)
    sys.argv[0] = str(ROOT / "launch.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
