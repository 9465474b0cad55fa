"""python -m benchmarks.tpu: see `compile.py`."""

import sys

from benchmarks.tpu.compile import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
