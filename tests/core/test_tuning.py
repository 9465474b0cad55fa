"""What a process takes of a CPU: cores, devices, huge pages."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from launched import ROOT

from unet_jax.core import tuning

SCRIPT = """
import os
from unet_jax.core.tuning import has_huge_pages, restart_with_huge_pages
restart_with_huge_pages()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), has_huge_pages())
"""


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A function that makes a tree of cgroup files and puts this process into a group."""

    def make(group_lines: str, files: dict[str, str]) -> None:
        (tmp_path / "group").write_text(group_lines)
        for name, content in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        monkeypatch.setattr(tuning, "OWN_CGROUP", tmp_path / "group")
        monkeypatch.setattr(tuning, "CGROUPS", tmp_path / "fs")
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))

    return make


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {}, 16),
        ("0::/", {"cpu.max": "max 100000"}, 16),
        ("0::/", {"cpu.max": "250000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/../gone", {"cpu.max": "400000 100000"}, 4),
        ("0::/", {"cpu.max": "damaged"}, 16),
        (
            "2:cpu,cpuacct:/job",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "500000",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            },
            5,
        ),
        (
            "2:cpu:/job\n1:memory:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            16,
        ),
    ],
)
def test_a_container_s_quota_bounds_the_cores(cgroup, group, files, cores):
    cgroup(group, files)
    assert tuning.usable_cores() == cores


def test_the_affinity_bounds_the_cores(cgroup, monkeypatch):
    cgroup("0::/", {"cpu.max": "800000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert tuning.usable_cores() == 2


@given(batch=st.integers(1, 300), cores=st.integers(1, 128))
def test_the_devices_are_the_most_that_divide_the_batch(batch, cores):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(tuning.VARIABLE, raising=False)
        patch.setattr(tuning, "usable_cores", lambda: cores)
        count = tuning.devices_for(batch)
        assert count == max(n for n in range(1, min(batch, cores) + 1) if batch % n == 0)
        patch.setenv(tuning.VARIABLE, "off")
        assert tuning.devices_for(batch) == 1


def restarted(**variables: str) -> tuple[bool, str, str]:
    """Runs the script; returns whether it kept its process ID, and what it prints besides."""
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=environment | variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=60)
    identifier, tunables, huge = output.split()  # printed once
    return int(identifier) == process.pid, tunables, huge


def has_huge_pages() -> bool:
    """Whether this system has them, found without the code that is tested."""
    setting = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    library, version = platform.libc_ver()
    recent = library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    return recent and setting.exists() and "[never]" not in setting.read_text()


HAS_HUGE_PAGES = has_huge_pages()


@pytest.mark.skipif(not HAS_HUGE_PAGES, reason="this system has no huge pages for malloc")
def test_a_command_restarts_in_place_with_huge_pages():
    assert restarted() == (True, "glibc.malloc.hugetlb=1", "True")
    others = "glibc.malloc.tcache_count=7"
    assert restarted(GLIBC_TUNABLES=others) == (True, f"{others}:glibc.malloc.hugetlb=1", "True")


@pytest.mark.parametrize(
    "variables",
    [{"UNET_JAX_TUNING": "off"}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}],
    ids=str,
)
def test_what_the_user_has_set_is_kept(variables):
    assert restarted(**variables) == (True, variables.get("GLIBC_TUNABLES", "None"), "False")


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(os, "confstr", lambda name: "musl 1.2.5"),
        lambda patch: patch.setattr(os, "confstr", lambda name: "glibc 2.31"),
        lambda patch: patch.setattr(os, "confstr", lambda name: None),
        lambda patch: patch.delattr(os, "confstr"),
        lambda patch: patch.setattr(tuning, "HUGE_PAGE_SETTING", pathlib.Path("/nowhere")),
    ],
)
def test_without_support_nothing_restarts(change, monkeypatch):
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("restarted"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    change(monkeypatch)
    tuning.restart_with_huge_pages()
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.skipif(not HAS_HUGE_PAGES, reason="this system has no huge pages for malloc")
def test_a_restart_that_fails_is_none(monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(os, "execve", fail)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    tuning.restart_with_huge_pages()
    assert not tuning.has_huge_pages()
