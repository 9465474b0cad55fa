"""python -m benchmarks.peers --config=configs/NAME.py[:VARIANT] --minutes=30 --out=FOLDER"""

import sys

from benchmarks.peers.compare import main
from unet_jax.core.streams import make_streams_robust

if __name__ == "__main__":
    make_streams_robust()
    sys.exit(main(sys.argv[1:]))
