"""Tests of what hosts exchange, between two processes with two CPU devices each over loopback."""

import dataclasses
import math
import textwrap

import cluster
import numpy as np
import pytest
from flax import serialization

from unet_jax.evaluation.scores import pack, unpack
from unet_jax.metrics.registry import Counts, Score

TALK = """
    import dataclasses, sys
    import jax, numpy as np
    from unet_jax.core.errors import UserError
    from unet_jax.distributed import devices, hosts
    from unet_jax.evaluation.scores import all_scores
    from unet_jax.metrics.registry import Counts, Score

    coordinator, count, host = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with hosts.joined(coordinator, count, host):
        assert (hosts.index(), hosts.count(), hosts.is_first()) == (host, count, host == 0)

        values = [{"host": host, "none": None, "texts": ["a"] * host, "odd": -0.1}]
        values.append(np.arange(3 * host, dtype=np.int64).reshape(host, 3))
        for other, (fields, array) in enumerate(hosts.gather(values)):
            assert fields == {"host": other, "none": None, "texts": ["a"] * other, "odd": -0.1}
            assert array.dtype == np.int64 and array.shape == (other, 3)
            np.testing.assert_array_equal(array, np.arange(3 * other).reshape(other, 3))

        calls = []
        assert hosts.on_first(lambda: calls.append(host) or host + 7) == 7
        assert calls == [0] * (host == 0)
        try:
            hosts.on_first(lambda: (_ for _ in ()).throw(UserError("it is full")))
        except UserError as error:
            assert str(error) == ("" if host == 0 else "the first host stopped: ") + "it is full"
        else:
            raise AssertionError

        odd = np.array([-0.0, np.nan, np.inf, 1e-42], np.float32) * np.float32(1 - 2 * host)
        odd.view(np.uint32)[1] = 0x7FC01234 + host  # a NaN with a payload
        tree = {"a": odd, "b": np.asarray(41 + host, np.int32), "c": np.empty((0, 2), np.uint8)}
        told = hosts.share(tree)
        expected = [0x80000000, 0x7FC01234, 0x7F800000, np.float32(1e-42).view(np.uint32)]
        assert told["a"].view(np.uint32).tolist() == expected
        assert told["b"].dtype == np.int32 and told["b"].shape == () and told["b"] == 41
        assert told["c"].shape == (0, 2)
        # The other hosts may have a template of the arrays, which takes no memory.
        array = np.broadcast_to(np.zeros((), np.float32), (2, 3)) if host else np.ones((2, 3), "f4")
        np.testing.assert_array_equal(hosts.share(array), np.ones((2, 3), np.float32))

        hosts.check_same({"data": [1, {"a": "b"}]})
        try:
            hosts.check_same({"data": 1, "config": host})
        except UserError as error:
            assert host == 1
            assert str(error).startswith("host 1: config differ from the first host; ")
        else:
            assert host == 0

        any_host = devices.AnyHost(devices.local_mesh())
        asked = [any_host.reduce(host == 1 and step == 2) for step in range(5)]
        assert asked == [False, False, False, True, False], asked
        assert devices.describe(devices.local_mesh()) == "4 x cpu on 2 hosts"

        def score(index):
            counts = Counts(
                loss=np.float32(index / 7),
                confusion=np.array([[index, 1], [2, 2**40]]),
                histogram=np.arange(6).reshape(2, 3) + index,
                network_confusion=None if index == 1 else np.eye(2, dtype=np.int64),
            )
            prediction = np.full((2, 3), index, np.uint8) if index == 0 else None
            values, curves = {"distance": float("nan")}, {"v_rand": {0.1: index / 3, 0.5: 1.0}}
            each = {"hd95": [float("nan"), index / 3]}
            return Score(f"image-{index}", counts, values, each, curves, prediction, index)

        scores = all_scores([score(2 - host), score(4 * host)][: 2 - host])  # one or two a host
        assert [found.index for found in scores] == [0, 1, 2], scores
        for found, expected in zip(scores, map(score, range(3)), strict=True):
            assert isinstance(found, Score) and isinstance(found.counts, Counts)
            assert found.curves == expected.curves
            np.testing.assert_equal(dataclasses.asdict(found), dataclasses.asdict(expected))
"""


@pytest.mark.slow
def test_values_are_gathered_from_all_hosts(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(TALK))
    ends = cluster.finish(
        cluster.start_all(lambda port, host: [path, f"localhost:{port}", 2, host])
    )
    assert [code for code, _, _ in ends] == [0, 0], "".join(errors for _, _, errors in ends)


def test_scores_survive_the_format_in_which_hosts_send_them():
    counts = Counts(0.25, np.array([[3, 1], [2, 2**40]]), np.arange(6).reshape(2, 3))
    sent = [
        Score(
            "a",
            counts,
            {"distance": math.nan},
            {"hd95": [math.nan, 1 / 3]},
            {"v_rand": {0.1: 1 / 3, 0.5: 1.0}},
            index=4,
        ),
        Score("b", dataclasses.replace(counts, network_confusion=np.eye(2, dtype=np.int64))),
        Score("c", counts, prediction=np.full((2, 3), 7, np.uint8)),
    ]
    found = unpack(serialization.msgpack_restore(serialization.msgpack_serialize(pack(sent))))
    assert [type(score.counts) for score in found] == [Counts] * 3
    np.testing.assert_equal([*map(dataclasses.asdict, found)], [*map(dataclasses.asdict, sent)])
