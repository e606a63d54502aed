from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_modules.batches import residency
from data_modules.batches.residency import DEVICE, DISK, HOST, Residency, available_memory, choose_residency
from data_modules.config import AugmentationConfig, DataConfig
from data_modules.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SIZES = {DEVICE: 300, HOST: 200}


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    room = {DEVICE: 1000, HOST: 1000}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room[DEVICE], 10**6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    monkeypatch.setattr(residency, "available_memory", lambda: room[HOST])
    return room


def choose(wanted: str, device: torch.device, processes: int = 1, **augmentation: object) -> Residency:
    config = DataConfig(residency=wanted, residency_share=0.4, augmentation=AugmentationConfig(**augmentation))  # type: ignore[arg-type]
    return choose_residency(config, SIZES, device, processes)


@pytest.mark.parametrize(
    ("on_device", "on_host", "processes", "device", "place"),
    [
        (750, 0, 1, GPU, DEVICE),  # 300 of 750 are 0.4
        (749, 500, 1, GPU, HOST),  # 200 of 500 are 0.4
        (749, 499, 1, GPU, DISK),
        (750, 0, 8, GPU, DEVICE),  # each has its own
        (749, 500, 2, GPU, DISK),  # each keeps a copy
        (750, 500, 1, CPU, HOST),
        (750, 499, 1, CPU, DISK),
    ],
)
def test_auto_takes_the_first_place_with_room(
    free: dict[str, int], on_device: int, on_host: int, processes: int, device: torch.device, place: str
) -> None:
    free |= {DEVICE: on_device, HOST: on_host}
    assert choose("auto", device, processes).place == place


def test_a_place_by_name_may_be_filled(free: dict[str, int]) -> None:
    free |= {DEVICE: 300, HOST: 200}
    assert choose("device", GPU) == Residency(DEVICE)
    assert choose("host", GPU) == choose("host", CPU) == Residency(HOST)
    assert choose("disk", GPU) == choose("disk", CPU) == Residency(DISK)


def test_a_place_by_name_that_is_too_small(free: dict[str, int]) -> None:
    free |= {DEVICE: 299, HOST: 199}
    with pytest.raises(UserError, match=r"data\.residency=device: .*memory of H100.*data\.residency=auto"):
        choose("device", GPU)
    for device in (GPU, CPU):
        with pytest.raises(UserError, match=r"data\.residency=host: .* each of 1 training processes"):
            choose("host", device)


def test_without_a_gpu_its_memory_is_the_hosts() -> None:
    chosen = choose("device", CPU)
    assert chosen.place == HOST
    assert "no GPU trains" in chosen.remark


@pytest.mark.parametrize("wanted", ["auto", "device"])
def test_what_runs_on_the_host_cuts_there(wanted: str) -> None:
    for augmentation, told in (({"extra": ("torchio.Noise",)}, "extra"), ({"engine": "torchio"}, "engine=torchio")):
        chosen = choose(wanted, GPU, **augmentation)
        assert chosen.place == HOST
        assert f"data.augmentation.{told} runs on the host" in chosen.remark


def test_the_line_that_is_said() -> None:
    sizes = {DEVICE: 60_000_000, HOST: 40_000_000}
    assert Residency(DEVICE).describe(120, sizes) == "training volumes: 120 series, 0.06 GB, on the GPU"
    assert Residency(HOST, "so it is").describe(1, sizes) == "training volumes: 1 series, 0.04 GB, in memory (so it is)"
    assert "0.04 GB, on disk" in Residency(DISK).describe(2, sizes)


def test_available_memory(tmp_path: Path) -> None:
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\n")
    cgroup.mkdir()
    assert available_memory(meminfo, cgroup) == 1_024_000
    (cgroup / "memory.current").write_text("700000\n")
    (cgroup / "memory.stat").write_text("anon 1\ninactive_file 200000\n")
    (cgroup / "memory.max").write_text("max\n")
    assert available_memory(meminfo, cgroup) == 1_024_000
    (cgroup / "memory.max").write_text("800000\n")
    assert available_memory(meminfo, cgroup) == 300_000
    old = cgroup / "memory"
    old.mkdir()
    for name, value in (("limit_in_bytes", "500"), ("usage_in_bytes", "400")):
        (old / f"memory.{name}").write_text(value)
    (old / "memory.stat").write_text("total_inactive_file 50\n")
    assert available_memory(meminfo, cgroup) == 150
    assert available_memory(tmp_path / "none", cgroup) > 2**20


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/system.slice/job_7/step_0/task_0", "system.slice/job_7", ("max", "current", "inactive_file")),
        (
            "4:cpu,memory:/slurm/job_7/step_0",
            "memory/slurm/job_7",
            ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_the_limit_of_a_job_counts(tmp_path: Path, line: str, folder: str, names: tuple[str, str, str]) -> None:
    """SLURM sets it on a group of the job, around that of the process."""
    meminfo, groups = tmp_path / "meminfo", tmp_path / "groups"
    meminfo.write_text("MemAvailable:   1000 kB\n")
    groups.write_text(f"9:name=systemd:/\n{line}\n")
    job = tmp_path / "cgroup" / folder
    job.mkdir(parents=True)
    assert available_memory(meminfo, tmp_path / "cgroup", groups) == 1_024_000
    (job / f"memory.{names[0]}").write_text("800000\n")
    (job / f"memory.{names[1]}").write_text("700000\n")
    (job / "memory.stat").write_text(f"{names[2]} 200000\n")
    assert available_memory(meminfo, tmp_path / "cgroup", groups) == 300_000
    assert available_memory(meminfo, tmp_path / "cgroup", tmp_path / "none") == 1_024_000


def test_this_machine_has_memory() -> None:
    assert available_memory() > 2**20
