#!/usr/bin/env bash
# Measures speed, memory and a training on the GPU or TPU at hand within minutes, with the active
# Python environment (or $PYTHON): benchmarks/accelerator.sh --out=results; see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m benchmarks.accelerator "$@"
