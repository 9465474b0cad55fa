"""python tests/kills_of_bucket_runs.py KILLS SEED WORKDIR LOG FLAG...: kills a training often.

Trains with `launch.py FLAG... --workdir=WORKDIR`, a folder in a bucket of the emulator that the
environment names. Starts are killed at a random request to the bucket, and before it some requests
fail, until KILLS were killed; a start that ends before its kill is followed by another one, which
evaluates the finished run again. The last start is not killed. All starts are children of this
process, which has imported everything, so that each takes only the time of its work. Prints the
requests after which the starts were killed, as a JSON list.
"""

import json
import os
import random
import sys

import emulator
from launched import run_here

import unet_jax.modes  # noqa: F401  imports jax, once for all children

REQUESTS = 300  # a kill comes after fewer, or than the last start made that ended before its kill
MOST_STARTS = 5  # for each kill
FAILING = 0.01  # share of the requests before it that fail


def start(flags: list[str], log: str) -> int:
    """Starts the training in a child; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code, output = run_here(*flags)
        with open(log, "a") as file:
            file.write(output)
    finally:
        os._exit(code)


if __name__ == "__main__":
    kills, seed, workdir, log, *flags = sys.argv[1:]
    rng, killed, most = random.Random(int(seed)), [], REQUESTS
    for _ in range(MOST_STARTS * int(kills)):
        if len(killed) == int(kills):
            break
        after, before = rng.randrange(most), emulator.requests()
        bad = rng.choices([None, 500, 503, "cut"], [1 - FAILING, *[FAILING / 3] * 3], k=after)
        emulator.fail([])  # a start that ended before its kill leaves some
        pid = start([*flags, f"--workdir={workdir}"], log)
        emulator.fail([*bad, ["kill", pid, rng.random() < 0.5]])
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            killed.append(after)
        elif os.waitstatus_to_exitcode(status):
            sys.exit(f"a start failed: {open(log).read()}")
        else:
            most = emulator.requests() - before
    emulator.fail([])
    _, status = os.waitpid(start([*flags, f"--workdir={workdir}"], log), 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"the last start failed: {open(log).read()}")
    print(json.dumps(killed))
