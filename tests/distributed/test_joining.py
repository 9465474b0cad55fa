"""Which hosts a process joins: those of its flags, those that JAX detects, or none."""

import re
import subprocess

import jax
import pytest
from jax._src.clusters import cloud_tpu_cluster

from unet_jax.core.errors import UserError
from unet_jax.distributed import hosts

CLUSTERS = {
    "slurm": {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    },
    "ompi": {
        "OMPI_MCA_orte_hnp_uri": "28672.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    },
    "tpu": {
        "TPU_WORKER_HOSTNAMES": "localhost,b,c,d",
        "TPU_WORKER_ID": "0",
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost",  # or JAX asks a server of Google Cloud
        "MEGASCALE_NUM_SLICES": "1",
        "MEGASCALE_SLICE_ID": "0",
    },
}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables of a cluster; gives this process to no other one."""
    for name in ("initialize", "shutdown"):
        monkeypatch.setattr(jax.distributed, name, None)
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(hosts, "JOIN_SECONDS", 0.3)

    def become(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if "TPU_WORKER_ID" in variables:
            monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
            monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)

    return become


@pytest.mark.parametrize("cluster_of", CLUSTERS)
def test_a_detected_cluster_is_printed_with_the_flag_that_disables_it(
    environment, capsys, cluster_of
):
    environment(CLUSTERS[cluster_of])
    with pytest.raises(UserError) as error, hosts.joined(None, None, None):
        raise AssertionError
    said = re.fullmatch(
        r"joining 4 hosts as process 0 at (\S+:\d+); --num_processes=1 runs on this host alone\n",
        capsys.readouterr().out,
    )
    assert said
    assert str(error.value).startswith(
        f"{said[1]}: not all 4 processes connected within 0.3 s (missing: 1, 2, 3)"
    )


@pytest.mark.parametrize("variables", [*CLUSTERS.values(), {"JAX_COORDINATOR_ADDRESS": "here:1"}])
@pytest.mark.parametrize("arguments", [(None, 1, None), (None, 1, 0), ("here:1", 1, 0)])
def test_one_process_joins_no_cluster(environment, capsys, variables, arguments):
    environment(variables)
    with pytest.raises(RuntimeError, match="a mistake"), hosts.joined(*arguments):
        assert (hosts.index(), hosts.count(), hosts.is_first()) == (0, 1, True)
        tree = {"a": 1}
        assert hosts.share(tree) is tree
        assert hosts.gather("x") == ["x"]
        assert hosts.on_first(lambda: 3) == 3
        hosts.check_same({"data": 1})
        raise RuntimeError("a mistake")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("variables", [{}, CLUSTERS["slurm"] | {"SLURM_NTASKS": "1"}])
def test_without_flags_a_process_that_is_alone_joins_nothing(environment, capsys, variables):
    environment(variables)
    with hosts.joined(None, None, None):
        assert hosts.count() == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        (CLUSTERS["slurm"] | {"SLURM_NTASKS": "4(x2)"}, "4(x2)"),
        (CLUSTERS["slurm"] | {"SLURM_PROCID": "4"}, "this is process 4 of 4"),
        ({"OMPI_MCA_orte_hnp_uri": "28672.0;tcp://127.0.0.1:34911"}, "OMPI_COMM_WORLD_SIZE"),
        (CLUSTERS["tpu"] | {"TPU_WORKER_ID": "x"}, "'x'"),
        ({"JAX_COORDINATOR_ADDRESS": "here:1"}, "process None of None at here:1"),
        ({"JAX_COORDINATOR_ADDRESS": "here"}, "here"),
    ],
)
def test_a_cluster_that_cannot_be_detected_is_refused_in_one_line(environment, variables, part):
    environment(variables)
    with pytest.raises(UserError) as error, hosts.joined(None, None, None):
        raise AssertionError
    assert part in str(error.value)
    assert str(error.value).endswith("; --num_processes=1 runs on this host alone")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("here:1", None, None), "give all three"),
        ((None, 2, 0), "give all three"),
        (("here:1", 2, None), "give all three"),
        (("here", 2, 0), "HOST:PORT"),
        (("here:x", 2, 0), "HOST:PORT"),
        ((":1", 2, 0), "HOST:PORT"),
        (("here:0", 2, 0), "from 1 to 65535"),
        (("here:x", 1, 0), "HOST:PORT"),
        ((None, 0, None), "at least 1"),
        ((None, 1, 1), "give all three"),
        ((None, 2, None), "or --num_processes=1 to run on this host alone"),
        (("here:1", 2, 2), "below --num_processes"),
        (("here:1", 2, -1), "at least 0"),
    ],
)
def test_an_incomplete_description_of_hosts_is_refused(arguments, part):
    with pytest.raises(UserError, match=part), hosts.joined(*arguments):
        raise AssertionError
