"""The comparison with other people's code: on the same images, in the same time.

`python -m benchmarks.peers` is the command. A peer is a file with a class of `peer.Peer`.
"""
