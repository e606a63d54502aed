from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iac_lightning.sweeps.state import Sweep, open_sweep
from tests.integration.settings import REPOSITORY

TWO_AXES = """
name: tiny
base: {cpu}/vit.yaml
pretrain: {cpu}/mae.yaml
settings: {{data.batch_size: 2, loss: {{ce_weight: 2}}}}
axes:
  patch:
    8³: {{model.vit.patch_size: [8, 8, 8]}}
    16³: {{model: {{vit: {{patch_size: [16, 16, 16]}}}}}}
  start:
    scratch: {{pretrain: false}}
    half hidden: {{pretrain: true, pretrain.model.mae.mask_ratio: 0.5}}
seeds: [3, 4]
"""


def write(tmp_path: Path, text: str, name: str = "sweep.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text.format(cpu=REPOSITORY / "experiments/sweeps/cpu"), encoding="utf-8")
    return path


def planned(name: str, what: str = "0.1", needs: tuple[str, ...] = (), experiment: str = "x.yaml") -> dict[str, Any]:
    """A cell as `sweep.json` has it."""
    kind = "pretrain" if name.startswith("pretrain") else "finetune"
    facts = {"levels": {}, "seed": 0, "run": name, "experiment": experiment, "config_hash": "h"}
    return {"name": name, "kind": kind, "overrides": [what], "needs": list(needs), **facts}


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Sweep]:
    """Writes a sweep of the given cells."""

    def make(*cells: dict[str, Any]) -> Sweep:
        directory = tmp_path / "s"
        directory.mkdir(exist_ok=True)
        plan = {"name": "s", "split": "test", "cells": list(cells)}
        (directory / "sweep.json").write_text(json.dumps(plan), encoding="utf-8")
        return open_sweep(directory)

    return make
