from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_modules.batches import shared_memory
from data_modules.batches.shared_memory import batch_bytes, check_shared_memory
from data_modules.config import DataConfig, SamplingConfig
from data_modules.errors import UserError


def config(workers: int, batch_size: int = 2) -> DataConfig:
    return DataConfig(num_workers=workers, batch_size=batch_size, sampling=SamplingConfig(crop=(100, 100, 10)))


def test_the_size_of_a_batch() -> None:
    assert batch_bytes(config(1), labels=False) == 2 * 100_000 * 4 + 12_288
    assert batch_bytes(config(1), labels=True) == 2 * 100_000 * 9 + 12_288


def test_loader_processes_without_room_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_bytes(config(1), labels=True)
    room = 9 * batch
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=room))
    check_shared_memory(config(4), True, 4, folder=tmp_path)  # 4 × 2 ahead, and the one that is trained on
    with pytest.raises(UserError, match=r"num_workers=5: .* Set data.num_workers=4, .*--shm-size=1g"):
        check_shared_memory(config(5), True, 5, folder=tmp_path)
    with pytest.raises(UserError, match=r"Set data.num_workers=1,"):
        check_shared_memory(config(4), True, 4, devices=2, folder=tmp_path)
    room = batch
    with pytest.raises(UserError, match=r"Set data.num_workers=0 \(the training process loads\)"):
        check_shared_memory(config(1), True, 1, folder=tmp_path)
    check_shared_memory(config(0), True, 0, folder=tmp_path)
    check_shared_memory(config(9), True, 9, folder=tmp_path / "a system without it")


def test_torch_makes_as_many_batches_ahead_as_is_counted() -> None:
    from torch.utils.data import DataLoader

    assert DataLoader([0], num_workers=1).prefetch_factor == shared_memory.PREFETCH
