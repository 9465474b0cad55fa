"""Starts the launcher, or another Python program, as a child process that ends with this one."""

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from unet_jax.core.errors import EXIT_INTERRUPTED
from unet_jax.core.stop import stop_signals

LAUNCHER = pathlib.Path(__file__).parents[2] / "launch.py"


def launch(
    arguments: Sequence[str],
    log: pathlib.Path,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Runs Python in a child process and waits for it.

    The child has its own process group, so that it does not receive Ctrl-C and Ctrl-Z from the
    terminal. This process forwards each signal once: the first Ctrl-C stops the child, a second one
    aborts it. If this process is killed, the child receives SIGTERM on Linux; on other systems it
    trains to its end.

    Args:
      arguments: the script and its flags.
      log: file to which the child's output is appended.
      python: the interpreter.
      environment: variables to set for the child, besides those of this process.

    Returns:
      The exit code. It is `EXIT_INTERRUPTED` after a signal to stop, even if the child had not yet
      installed its signal handlers.
    """
    stopped = False
    process: subprocess.Popen | None = None

    def stop(number: int, _: object) -> None:
        nonlocal stopped
        stopped = True
        if process:
            process.send_signal(number)

    def pause(_: int, __: object) -> None:
        if process:
            process.send_signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # returns when this process is continued
        if process:
            process.send_signal(signal.SIGCONT)

    handlers = dict.fromkeys(stop_signals(), stop) | {signal.SIGTSTP: pause}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with log.open("a") as output:
            process = subprocess.Popen(
                [*_tied(), python, *arguments],
                env=os.environ | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        if stopped:
            process.terminate()
        code = process.wait()
        return EXIT_INTERRUPTED if stopped else code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Makes Linux send SIGTERM when the parent dies, exits if it is already dead, and executes the
# command. A preexec_fn could do this too, but it forks, and JAX warns about forks.
TIE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def _tied() -> list[str]:
    """Returns the prefix of a command that is to end with this process, even if SIGKILL ends it."""
    linux = sys.platform == "linux"
    return [sys.executable, "-ISc", TIE, str(os.getpid())] if linux else []
