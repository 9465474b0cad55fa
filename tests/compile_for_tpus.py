"""Compiles the steps of experiments for a slice of TPUs, in one process: libtpu starts but once.

    python tests/compile_for_tpus.py < FIELDS

FIELDS is a JSON object of lists of config fields by dotted name. It writes a JSON object with the
collectives of the training and of the evaluation step of each.
"""

import json
import sys

from benchmarks.tpu import compile
from configs import base
from unet_jax.runs.experiment import check, resolve_without_data

if __name__ == "__main__":
    _, devices = compile.describe_slice("v5e:2x2")
    found = {}
    for name, fields in json.load(sys.stdin).items():
        config = base.get_config()
        config.update_from_flattened_dict(fields)
        check(config)
        steps = compile.Steps(resolve_without_data(config, platform="tpu"), 3, devices)
        found[name] = [
            compile.collectives(step(2).as_text()) for step in (steps.train, steps.evaluate)
        ]
    json.dump(found, sys.stdout)
