"""Trains, predicts and scores each peer with each seed, one after the other.

python -m benchmarks.peers --config=configs/ph2.py:unet,bce,augmented,small --out=runs/peers-ph2

docs/peers.md explains what is compared, and the clock.
"""

import argparse
import pathlib
import shlex
import shutil
from collections.abc import Mapping, Sequence

from benchmarks.compare import commit
from benchmarks.peers import images, page
from benchmarks.peers.auto import Auto
from benchmarks.peers.exchange import HISTORY, TRAINING
from benchmarks.peers.nnunet import NnUnet, NnUnetLowres, NnUnetWhole
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import RUN, Peer, Setting, predictions, training_of
from benchmarks.peers.results import Entry
from benchmarks.peers.scoring import overlays, report_of
from benchmarks.peers.smp import Smp, SmpPretrained
from benchmarks.peers.twin import Twin
from benchmarks.timing import environment
from unet_jax import data
from unet_jax.core.command_help import command_parser, describe_config
from unet_jax.core.config import digest
from unet_jax.core.errors import EXIT_INTERRUPTED, UserError, print_error
from unet_jax.core.files import expand_utf8, read_json, write_json
from unet_jax.core.stop import Interrupted
from unet_jax.reporting import report
from unet_jax.reporting.sweep import numbers
from unet_jax.runs.commandline import load_config
from unet_jax.runs.experiment import check, resolve, resolve_intensities
from unet_jax.runs.log import read_history

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Ours(),
        Auto(),
        Twin(),
        Smp(),
        SmpPretrained(),
        NnUnet(),
        NnUnetLowres(),
        NnUnetWhole(),
    )
}
DEFAULT = "ours,auto,twin,smp,nnunet"
COMPARISON = "comparison.json"  # what belongs to one comparison


def main(arguments: Sequence[str], peers: Mapping[str, Peer] = PEERS) -> int:
    """Runs the command.

    Args:
      arguments: of the command line.
      peers: the peers by name.

    Returns:
      0; 1 if a peer could not be compared; 75 if a signal stopped it; 2 for a user error.
    """
    parser = command_parser("python -m benchmarks.peers", __doc__)
    parser.add_argument("--minutes", type=float, default=30, help="of each training")
    parser.add_argument(
        "--seeds", type=numbers, default="0,1,2", help="seeds of the trainings, such as 0,1,2"
    )
    parser.add_argument("--peers", default=DEFAULT, help=f"some of {','.join(peers)}")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write")
    parser.add_argument(
        "--environments",
        type=pathlib.Path,
        help="folder of the peers' environments, which are made if they are missing; by default "
        "OUT/environments",
    )
    describe_config(parser)
    options, overrides = parser.parse_known_args(arguments)
    try:
        chosen = {name: _known(name, peers) for name in options.peers.split(",")}
        setting = open_setting(options, overrides)
        absent: dict[str, str] = {}
        text = ""
        for name, peer in chosen.items():
            print(f"{name}: prepares", flush=True)
            try:
                peer.install(setting)
                peer.prepare(setting)
            except UserError as error:
                absent[name] = str(error)
                print(f"{name}: {error}", flush=True)
        for place, seed in enumerate(options.seeds):
            # Alternating the order keeps one peer from always having the warmer machine.
            for name in list(chosen)[:: 1 if place % 2 == 0 else -1]:
                if name in absent:
                    continue
                try:
                    run(setting, chosen[name], seed)
                except UserError as error:
                    absent[name] = f"seed {seed}: {error}"
                    print(f"{name}: {absent[name]}", flush=True)
            entries = {
                name: entry
                for name, peer in chosen.items()
                if (entry := entry_of(setting, peer, options.seeds))
            }
            facts = {"command": shlex.join(["python", "-m", "benchmarks.peers", *arguments])}
            facts |= {"commit": commit(), **environment()}
            text = page.write(setting, entries, absent, facts)
    except UserError as error:
        return print_error(error)
    except (Interrupted, KeyboardInterrupt):
        print("interrupted; rerunning the command resumes it")
        return EXIT_INTERRUPTED
    print(text)
    return 1 if absent else 0


def _known(name: str, peers: Mapping[str, Peer]) -> Peer:
    if name not in peers:
        raise UserError(f"--peers: no peer {name}; there are {', '.join(peers)}")
    return peers[name]


def open_setting(options: argparse.Namespace, overrides: Sequence[str]) -> Setting:
    """Opens the data and writes the images to OUT.

    Raises:
      UserError: the config is invalid, OUT holds another comparison, or the peers cannot train on
        these data.
    """
    config = load_config(overrides)
    check(config)
    config.data.root = expand_utf8(config.data.root)
    dataset = data.open_dataset(config.data)
    config, _ = resolve_intensities(resolve(config, dataset.classes), dataset)
    images.check(dataset)
    about = {"digest": digest(config), "minutes": options.minutes, "hashes": dict(dataset.sha256)}
    path = options.out / COMPARISON
    if path.exists() and (before := read_json(path)) != about:
        differing = [key for key in about if before.get(key) != about[key]]
        raise UserError(
            f"{options.out}: holds another comparison (its {', '.join(differing)} differ); use "
            f"another folder with --out=..."
        )
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(path, about)
    environments = options.environments or options.out / "environments"
    setting = Setting(tuple(overrides), config, dataset, options.out, options.minutes, environments)
    images.lay_out(dataset, setting.images)
    return setting


def run(setting: Setting, peer: Peer, seed: int) -> None:
    """Trains, predicts and scores a peer with a seed; what is complete is not repeated.

    A training that was interrupted starts from scratch, because its time counts.
    """
    folder = setting.folder(peer.name, seed)
    if (folder / "report.json").exists():
        return
    if not (folder / TRAINING).exists():
        print(f"{folder}: trains for {setting.minutes:g} min", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        peer.train(setting, folder, seed)
    shutil.copyfile(folder / RUN / HISTORY, folder / HISTORY)
    augmentations = [False, True] if peer.augments_test(folder) else [False]
    splits = [name for name in ("validation", "test") if len(setting.dataset.splits[name])]
    for tta in augmentations:
        for split in splits:
            predict(setting, peer, folder, split, tta)
    for tta in augmentations[::-1]:  # report.json is last: it says that all is complete
        content = report_of(setting, peer, folder, seed, tta)
        drawn = overlays(setting, folder, content, tta)
        stem = "report-tta" if tta else "report"
        report.write_report(folder, content, read_history(folder), drawn, stem)


def predict(setting: Setting, peer: Peer, folder: pathlib.Path, split: str, tta: bool) -> None:
    """Predicts a split into its folder, unless that is complete."""
    target = predictions(folder, split, tta)
    if target.exists():
        return
    print(f"{target}: predicts", flush=True)
    part = target.with_name(f"part-{target.name}")
    shutil.rmtree(part, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    peer.predict(setting, folder, split, tta, part)
    part.rename(target)


def entry_of(setting: Setting, peer: Peer, seeds: Sequence[int]) -> Entry | None:
    """Returns what a peer reached with the seeds that are complete; None without any."""
    folders = {seed: setting.folder(peer.name, seed) for seed in seeds}
    folders = {seed: at for seed, at in folders.items() if (at / "report.json").exists()}
    if not folders:
        return None
    tta = {seed: at for seed, at in folders.items() if (at / "report-tta.json").exists()}
    return Entry(
        title=peer.title,
        recipe=peer.recipe(setting, next(iter(folders.values()))),
        reports={seed: read_json(at / "report.json") for seed, at in folders.items()},
        augmented={seed: read_json(at / "report-tta.json") for seed, at in tta.items()},
        trainings={seed: training_of(at) for seed, at in folders.items()},
        own_dice={seed: peer.own_dice(at) for seed, at in folders.items()},
    )
