"""What stands in for a workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[4]
MAE = str(ROOT / "experiments/demo/mae.yaml")
VIT = str(ROOT / "experiments/demo/vit_scratch.yaml")


class Recorder:
    """Keeps what it was called with."""

    def __init__(self, result: Any = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.result = result

    def __call__(self, *args: Any) -> Any:
        self.calls.append(args)
        return self.result
