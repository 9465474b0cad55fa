"""Runs one part: python -m benchmarks.accelerator.child KIND SETTINGS OUT SECONDS"""

import ctypes
import importlib
import json
import pathlib
import signal
import sys
import traceback
from collections.abc import Sequence

from benchmarks.accelerator.record import Recorder

PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    """Measures a part; returns 1 if it failed, for a reason that it has recorded."""
    kind, settings, out, seconds = arguments
    if sys.platform == "linux":  # ends with the process that started it, even if that is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    recorder = Recorder(pathlib.Path(out), float(seconds))
    try:
        part = importlib.import_module(f"benchmarks.accelerator.{kind}")
        part.measure(json.loads(settings), recorder)
    except ModuleNotFoundError as error:
        traceback.print_exc()
        recorder.fail(f"the package {error.name} is not installed")
        return 1
    except Exception as error:  # such as a lack of memory; the other parts still run
        traceback.print_exc()
        recorder.fail((str(error) or type(error).__name__).splitlines()[0][:200])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
