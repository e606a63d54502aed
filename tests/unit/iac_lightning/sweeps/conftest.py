from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iac_lightning.sweeps.state import Sweep, open_sweep


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
