"""Default settings on a CPU: a JAX device for each core, and huge pages for malloc.

`UNET_JAX_TUNING=off` in the environment disables both.
"""

import contextlib
import math
import os
import pathlib
import sys
from collections.abc import Iterator

VARIABLE = "UNET_JAX_TUNING"
TUNABLES, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
OLDEST_GLIBC = (2, 35)  # the first whose malloc has this tunable
CGROUPS = pathlib.Path("/sys/fs/cgroup")
OWN_CGROUP = pathlib.Path("/proc/self/cgroup")
HUGE_PAGE_SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def is_on() -> bool:
    """Whether the environment allows tuning."""
    return os.environ.get(VARIABLE, "on") != "off"


def usable_cores() -> int:
    """Returns the cores that this process may keep busy: its affinity and its cgroup's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(math.floor(quota) for quota in _quotas())]))


def devices_for(batch_size: int) -> int:
    """Returns into how many devices to split the CPU: a divisor of the batch size.

    It is the largest one that is at most the number of usable cores; 1 without tuning.
    """
    most = min(usable_cores(), batch_size) if is_on() else 1
    return next(count for count in range(most, 0, -1) if batch_size % count == 0)


def has_huge_pages() -> bool:
    """Whether malloc was started with huge pages."""
    return f"{HUGE_PAGES}=1" in os.environ.get(TUNABLES, "").split(":")


def restart_with_huge_pages() -> None:
    """Restarts this command in place, with the same process ID, so that malloc uses huge pages.

    glibc reads its tunables when a process starts. With huge pages, large arrays take fewer page
    faults (benchmarks/results/cpu-speed.md, "Two devices on a CPU of two cores"). Nothing happens
    if the variable already has the tunable, or if the system does not support it. A command calls
    this first, before it imports JAX or starts a thread.
    """
    tunables = os.environ.get(TUNABLES, "")
    if not is_on() or HUGE_PAGES in tunables or not sys.executable or not _supports_huge_pages():
        return
    environment = os.environ | {TUNABLES: f"{tunables}:{HUGE_PAGES}=1".lstrip(":")}
    with contextlib.suppress(OSError):  # the command continues without huge pages
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _supports_huge_pages() -> bool:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        setting = HUGE_PAGE_SETTING.read_text()
        found = tuple(int(part) for part in version.split(".")[:2])
    except (AttributeError, OSError, ValueError):  # another C library or system
        return False
    return name == "glibc" and found >= OLDEST_GLIBC and "[never]" not in setting


def _quotas() -> Iterator[float]:
    """Yields the quotas of this process's cgroup and its ancestors, in cores."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers  # version 2 names no controllers
        # Inside a container, the group may be missing or be the root.
        for folder in [root, *(root / part for part in _ancestors(group))]:
            with contextlib.suppress(OSError, ValueError):
                quota, period = _quota(folder, version_2=not controllers)
                if quota > 0 and period > 0:
                    yield quota / period


def _ancestors(group: str) -> list[str]:
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return ["/".join(parts[: length + 1]) for length in range(len(parts))]


def _quota(folder: pathlib.Path, version_2: bool) -> tuple[int, int]:
    """Reads a cgroup's quota and its period; raises ValueError if there is no quota ("max")."""
    if version_2:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota), int(period)
    return (
        int((folder / "cpu.cfs_quota_us").read_text()),  # -1: no quota
        int((folder / "cpu.cfs_period_us").read_text()),
    )
