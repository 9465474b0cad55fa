"""This project's config, for as many epochs as the time allows at its measured pace."""

from benchmarks.peers.project import PacedPeer


class Ours(PacedPeer):
    """This project's config."""

    name = "ours"
    title = "this project"
