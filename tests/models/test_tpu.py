"""The train step of every network compiles for a slice of four TPUs, where libtpu is installed."""

import importlib.util
import os
import subprocess
import sys

import pytest

# libtpu describes the slice itself; nothing is asked of a cloud.
SLICE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

COMPILE = """
import functools, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from configs import base
from unet_jax import losses, models, optim, parallel, train

config = base.get_config()
config.model.update(width=8, depth=2, dropout=0.1, dtype="bfloat16")
config.model.name, config.model.padding = sys.argv[1:]
topology = topologies.get_topology_desc(topology_name="v5e:2x2", platform="tpu")
mesh = parallel.local_mesh(topology.devices)
model = models.build(**config.model)
optimizer = optim.build(config.optim, optim.build_schedule(config.optim, 1, 1))
ema_decay = config.optim.ema_decay
step = functools.partial(
    train.train_step,
    model=model,
    loss=losses.build(**config.loss),
    optimizer=optimizer,
    ema_decay=ema_decay,
    input_range=config.data.input_range,
)
state = train.init_state(model, optimizer, channels=3, seed=0, ema_decay=ema_decay)
state = jax.eval_shape(lambda: state)
batch = {
    "image": jax.ShapeDtypeStruct((4, 2, 32, 32, 3), jnp.uint8),
    "label": jax.ShapeDtypeStruct((4, 2, 32, 32), jnp.uint8),
}
key = jax.eval_shape(lambda: jax.random.key(0))
compiled = parallel.compile_train_step(step, mesh).lower(state, batch, key).compile()
assert "all-reduce" in compiled.as_text()
print("compiled for", mesh.devices.flat[0].device_kind)
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
@pytest.mark.parametrize(
    ("name", "padding"),
    [("unet", "same"), ("unet", "valid"), ("unet2", "same"), ("segnet", "same")],
)
def test_the_train_step_compiles_for_a_tpu_slice(name, padding):
    command = [sys.executable, "-c", COMPILE, name, padding]
    done = subprocess.run(command, env=os.environ | SLICE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("compiled for TPU v5")
