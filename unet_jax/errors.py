"""The one exception for errors of use."""


class UserError(Exception):
    """Something the user can mend: its message is one line that says what, where, what to do.

    `launch.py` prints the line without a traceback and exits with code 2.
    """
