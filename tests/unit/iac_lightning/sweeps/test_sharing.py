"""How many cells share a machine, and what each is told of its share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_modules.errors import UserError
from iac_lightning.config.schema import ExperimentConfig, LauncherConfig
from iac_lightning.sweeps import sharing
from iac_lightning.sweeps.sharing import Room, check_sharing, room_here, visible_gpus


def cell(name: str = "a", **trainer: Any) -> Any:
    config = ExperimentConfig(name=name)
    for key, value in trainer.items():
        setattr(config.trainer, key, value)
    return SimpleNamespace(name=name, config=config)


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ({}, Room(2, ("4", "7"), 1)),
        ({"per_gpu": 3}, Room(6, ("4", "7"), 3)),
        ({"per_gpu": 3, "at_once": 4}, Room(4, ("4", "7"), 3)),
        ({"at_once": 16}, Room(2, ("4", "7"), 1)),
    ],
)
def test_each_gpu_takes_its_cells(launcher: dict[str, Any], expected: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    assert room_here(LauncherConfig(**launcher), [cell()]) == expected


def test_without_a_gpu_for_them_cells_share_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for other in (cell(accelerator="cpu"), cell(devices=2)):
        assert room_here(LauncherConfig(), [cell(), other]) == Room(2)
    assert room_here(LauncherConfig(at_once=5), [cell(accelerator="cpu")]) == Room(5)
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        with pytest.raises(UserError, match=r"launcher\.per_gpu=2: .* there is none here .*launcher\.at_once"):
            room_here(LauncherConfig(per_gpu=2), [cell()])


def test_gpus_are_counted_where_nothing_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert visible_gpus() == ("0", "1", "2")


def test_the_least_taken_gpu_comes_next() -> None:
    room = Room(4, ("0", "1"), 2)
    assert room.free_gpu([]) == "0"
    assert room.free_gpu(["0"]) == "1"
    assert room.free_gpu(["0", "1", "1"]) == "0"
    assert Room(2).free_gpu([None]) is None


def test_a_cell_is_told_its_share_of_memory_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "cores", lambda: 16)
    config = ExperimentConfig(name="a")
    assert Room(8, ("0", "1"), 4).settings_of(config) == ("data.residency_share=0.125", "evaluation.workers=2")
    assert Room(1).settings_of(config) == ("evaluation.workers=16",)
    config.evaluation.workers = 5
    assert Room(32).settings_of(config) == ()


def test_sharing_is_refused_where_there_is_not_one_gpu() -> None:
    check_sharing(LauncherConfig(name="slurm", nodes=2, gpus_per_node=4), [cell(devices=4, num_nodes=2)])
    check_sharing(LauncherConfig(name="slurm", gpus_per_node=1, per_gpu=4), [cell()])
    for wrong in ({"gpus_per_node": 0}, {"gpus_per_node": 2}, {"gpus_per_node": 1, "nodes": 2}):
        with pytest.raises(UserError, match=r"launcher\.gpus_per_node=1 and launcher\.nodes=1"):
            check_sharing(LauncherConfig(name="slurm", per_gpu=2, **wrong), [cell()])
    with pytest.raises(UserError, match=r"1 cells train on several devices, such as b.*trainer\.devices=1"):
        check_sharing(LauncherConfig(per_gpu=2), [cell(), cell("b", devices=2)])
