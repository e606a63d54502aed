from __future__ import annotations

import pytest
import torch

from iac_lightning.models.precision import set_matmul_precision


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What torch was told; nothing is changed for other tests."""
    told: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", told.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    return told


@pytest.mark.parametrize(("precision", "tf32"), [("highest", False), ("high", True), ("medium", True)])
def test_convolutions_follow_the_matrices(precision: str, tf32: bool, chosen: list[str]) -> None:
    set_matmul_precision(precision, torch.device("cuda"))
    assert chosen == [precision]
    assert torch.backends.cudnn.allow_tf32 is tf32


def test_a_cpu_computes_in_float32_whatever_is_set(chosen: list[str]) -> None:
    set_matmul_precision("medium", torch.device("cpu"))
    assert chosen == []
