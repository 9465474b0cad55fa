"""One-time preparation of a data set: python -m unet_jax.prepare NAME --root=FOLDER [--download]"""

import argparse
import inspect
import os
import pathlib
import sys
from collections.abc import Sequence

from unet_jax.core.errors import EXIT_INTERRUPTED, UserError, print_error
from unet_jax.core.files import expand
from unet_jax.core.streams import make_streams_robust
from unet_jax.data.sources.registry import PREPARATIONS

EXIT_FAULTS = 1


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns 0, 1 (files failed), 2 (user error) or 75 (interrupted)."""
    modules = {name: inspect.getmodule(prepare) for name, prepare in PREPARATIONS.items()}
    parser = argparse.ArgumentParser(
        "python -m unet_jax.prepare",
        description="Prepares a data set; a rerun resumes an interrupted preparation.",
        epilog="\n\n".join(f"{name}: {module.__doc__}" for name, module in modules.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*PREPARATIONS])
    parser.add_argument("--root", required=True, help="folder of the data set, its data.root")
    parser.add_argument("--download", action="store_true", help="download missing data")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of threads")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers={options.workers}: give at least 1")
    try:
        root = pathlib.Path(expand(options.root))
        faults = PREPARATIONS[options.name](root, options.download, options.workers)
    except (UserError, OSError) as error:
        disk = isinstance(error, OSError)
        hint = "; free disk space or check the permissions, and run again" if disk else ""
        return print_error(f"{error}{hint}")
    except KeyboardInterrupt:
        print("interrupted; rerunning the command resumes it")
        return EXIT_INTERRUPTED
    return EXIT_FAULTS if faults else 0


if __name__ == "__main__":
    make_streams_robust()
    sys.exit(main(sys.argv[1:]))
