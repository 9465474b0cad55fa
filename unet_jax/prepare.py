"""Prepares files once: `python -m unet_jax.prepare labels --help` explains one preparation.

python -m unet_jax.prepare labels --from=coco --root=annotations --output=my-images

Rerunning the command resumes an interrupted preparation.
"""

import inspect
import sys
from collections.abc import Sequence

from unet_jax.core.command_help import Formatter, command_parser
from unet_jax.core.errors import EXIT_INTERRUPTED, UserError, print_error
from unet_jax.core.streams import make_streams_robust
from unet_jax.data.sources.registry import PREPARATIONS

EXIT_FAULTS = 1


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns 0, 1 (files failed), 2 (user error) or 75 (interrupted)."""
    preparations = dict(sorted(PREPARATIONS.items()))
    modules = {name: inspect.getmodule(entry.run) for name, entry in preparations.items()}
    parser = command_parser("python -m unet_jax.prepare", __doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, preparation in preparations.items():
        summary = str(modules[name].__doc__)
        command = commands.add_parser(
            name, help=summary.splitlines()[0], description=summary, formatter_class=Formatter
        )
        preparation.add_arguments(command)
    options = parser.parse_args(arguments)
    try:
        faults = preparations[options.name].run(options)
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
