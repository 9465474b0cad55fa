"""The exception for errors that the user can fix, and the exit codes of commands."""

import contextlib
import os
import sys
from typing import Any

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: rerunning the command resumes it


class UserError(Exception):
    """An error that the user can fix; its message states what is wrong, where, and what to do.

    A command prints the message in one line without a traceback and exits with code 2.
    """


def print_error(message: object) -> int:
    """Prints an error in one line to standard error.

    Args:
      message: the error or its text; line breaks become spaces.

    Returns:
      `EXIT_USER_ERROR`, the exit code for the command.
    """
    try:
        if sys.stdout is not None:  # None if it was closed when Python started
            sys.stdout.flush()
    except OSError:
        # The disk is full. Python would flush the rest at exit, fail and change the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    return EXIT_USER_ERROR


def show_unraisable(unraisable: Any) -> None:
    """Reports an unraisable exception, unless it is from orbax's pending I/O after a failure.

    Args:
      unraisable: the argument of `sys.unraisablehook`.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
