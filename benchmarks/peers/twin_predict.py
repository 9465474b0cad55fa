"""Predicts a split with the best weights of a run of the PyTorch twin.

python -m benchmarks.peers.twin_predict --run=runs/twin --split=test --into=predicted
"""

import pathlib

from benchmarks.peers.exchange import write_probability
from benchmarks.pytorch.train_twin import build_run, chosen_weights
from unet_jax import data
from unet_jax.core.command_help import command_parser
from unet_jax.data.resize import resize_smooth
from unet_jax.distributed import devices
from unet_jax.runs.experiment import saved_config
from unet_jax.runs.folder import read_config


def main() -> None:
    parser = command_parser("python -m benchmarks.peers.twin_predict", __doc__)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="the run's folder")
    parser.add_argument("--split", required=True, help="the split whose images are predicted")
    parser.add_argument("--into", type=pathlib.Path, required=True, help="folder to write")
    options = parser.parse_args()
    config = saved_config(read_config(options.run))
    devices.use_cores(config.eval.batch_size)
    dataset = data.open_dataset(config.data)
    run = build_run(config, dataset, options.run, mode="")
    weights, split = chosen_weights(run), dataset.splits[options.split]
    for index, probabilities, _ in run.evaluator.predictions(weights, split):
        native = resize_smooth(probabilities, *split.sizes[index])
        write_probability(options.into, split.names[index], native[..., -1])


if __name__ == "__main__":
    main()
