"""Where the training volumes are kept: in the memory of the device that trains, in the host's, or on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from data_modules.config import AugmentationConfig, DataConfig
from data_modules.errors import UserError

DEVICE, HOST, DISK = "device", "host", "disk"

_WHERE = {DEVICE: "on the GPU", HOST: "in memory", DISK: "on disk, read through memory maps"}
_CGROUPS = {  # of a container or a job: limit, use, the statistics that tell how much of it is file cache, their row
    "": ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"),
}


@dataclass(frozen=True)
class Residency:
    """Where training volumes lie.

    Attributes:
        place: "device", "host" or "disk".
        remark: what a user should know about the choice; empty: nothing.
    """

    place: str
    remark: str = ""

    def describe(self, n_series: int, n_bytes: dict[str, int]) -> str:
        """One line for the start of a training."""
        size = n_bytes[HOST if self.place == DISK else self.place]
        told = f"training volumes: {n_series} series, {_size(size)}, {_WHERE[self.place]}"
        return f"{told} ({self.remark})" if self.remark else told


def choose_residency(config: DataConfig, n_bytes: dict[str, int], device: torch.device, processes: int) -> Residency:
    """What `data.residency` comes to here.

    Args:
        config: residency, the share of free memory that `auto` may take, and the user's own transforms, which run on
            the host.
        n_bytes: size of the volumes in the memory of the device and of the host, by place.
        device: the one that trains. Where it has no memory of its own, `device` means `host`.
        processes: training processes of this machine, each of which holds the volumes once.

    Raises:
        UserError: where a place that is asked for by name is too small.
    """  # noqa: DOC501 - `_too_small` makes it
    own = device.type == "cuda"
    wanted, remark = config.residency, ""
    on_host = _what_needs_the_host(config.augmentation)
    if wanted == DEVICE and not own:
        wanted, remark = HOST, "no GPU trains: data.residency=device is the host's memory"
    elif own and on_host and wanted in ("auto", DEVICE):
        remark = f"{on_host} runs on the host"
        wanted = HOST if wanted == DEVICE else wanted
    if wanted == DISK:
        return Residency(DISK)
    if own and not on_host and wanted in ("auto", DEVICE):
        free = torch.cuda.mem_get_info(device)[0]
        if n_bytes[DEVICE] <= (free if wanted == DEVICE else config.residency_share * free):
            return Residency(DEVICE)
        if wanted == DEVICE:
            raise _too_small("device", n_bytes[DEVICE], free, f"the memory of {torch.cuda.get_device_name(device)}")
        remark = f"{_size(n_bytes[DEVICE])} are more than data.residency_share of the GPU's free memory"
    free = available_memory() // processes
    if n_bytes[HOST] <= (free if wanted == HOST else config.residency_share * free):
        return Residency(HOST, remark)
    if wanted == HOST:
        raise _too_small("host", n_bytes[HOST], free, f"memory, for each of {processes} training processes")
    return Residency(DISK, f"{_size(n_bytes[HOST])} are more than data.residency_share of the free memory")


def _what_needs_the_host(config: AugmentationConfig) -> str:
    if config.extra_in_use:
        return "data.augmentation.extra"
    return "data.augmentation.engine=torchio" if config.engine == "torchio" else ""


def available_memory(
    meminfo: Path = Path("/proc/meminfo"),
    cgroup: Path = Path("/sys/fs/cgroup"),
    groups: Path = Path("/proc/self/cgroup"),
) -> int:
    """Bytes that this process may still fill: of the system, and within the limits of its container and its job.

    Args:
        meminfo: Linux's account; elsewhere all memory of the machine is taken to be free.
        cgroup: where Linux tells the limits.
        groups: of this process, each of which and of whose parents may have one.
    """
    try:
        rows = (line.split() for line in meminfo.read_text().splitlines())
        free = next(int(row[1]) for row in rows if row[0] == "MemAvailable:") * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder, (limit, used, statistics, cache) in _limits(cgroup, groups):
        try:
            most, taken = (int((folder / name).read_text()) for name in (limit, used))
            rows = (line.split() for line in (folder / statistics).read_text().splitlines())
            freed = next((int(row[1]) for row in rows if row[0] == cache), 0)  # on demand
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
        free = min(free, max(most - taken + freed, 0))
    return free


def _limits(cgroup: Path, groups: Path) -> Iterator[tuple[Path, tuple[str, str, str, str]]]:
    """Folders that may hold a limit of this process, with the names of what they hold."""
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        lines = []
    for controller, names in _CGROUPS.items():
        own = next((line[2] for line in lines if len(line) == 3 and controller in line[1].split(",")), "/")
        place = Path(own.strip("/"))  # in a container it may be the host's, and is not there
        for part in (place, *place.parents):
            yield cgroup / controller / part, names


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2g} GB" if n_bytes >= 1e7 else f"{n_bytes / 1e6:.2g} MB"


def _too_small(place: str, needed: int, free: int, what: str) -> UserError:
    return UserError(
        f"data.residency={place}: the training volumes take {_size(needed)}, of which {what} has "
        f"{_size(free)} left; set data.residency=auto, which keeps them where they fit"
    )
