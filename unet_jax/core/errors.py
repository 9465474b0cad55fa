"""The one exception for errors of use, and how a command ends."""

import contextlib
import os
import sys

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # "try again": the same command goes on


class UserError(Exception):
    """Something the user can mend: its message is one line that says what, where, what to do.

    A command prints the line without a traceback and exits with code 2.
    """


def print_error(message: object) -> int:
    """Prints one line to stderr; returns the exit code that goes with it."""
    try:
        if sys.stdout is not None:  # closed when Python started
            sys.stdout.flush()
    except OSError:  # on a full disk: what is left would make Python exit with a code of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    return EXIT_USER_ERROR
