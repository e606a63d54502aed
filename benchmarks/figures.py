"""Figures as they come: each is a line on disk before the next is begun, and a table at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.device import Device


class Figures:
    """Lines of JSON in a file, and the time that is left for more.

    Args:
        path: file that lines are added to; those of earlier runs stay.
        part: what is measured; stands in every line.
        device: stands in every line too, with the date and the version of torch.
        seconds: after so many none is begun.
    """

    def __init__(self, path: Path, part: str, device: Device, seconds: float) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._end = time.monotonic() + seconds
        self._head = {
            "part": part,
            "device": device.name,
            "torch": torch.__version__,
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def seconds_left(self) -> float:
        """Until no figure is begun any more."""
        return self._end - time.monotonic()

    @property
    def status(self) -> int:
        """Of the process: 1 where an arm failed for another reason than `EXPECTED`."""
        return int(any(not str(row["problem"]).endswith(EXPECTED) for row in self.rows if "problem" in row))

    def add(self, **figure: Any) -> dict[str, Any]:
        """Keep a figure and print it."""
        self.rows.append(figure)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**self._head, **figure}) + "\n")
        print(self._head["part"], "  ".join(f"{name} {shown(value)}" for name, value in figure.items()), flush=True)
        return figure


def shown(value: Any) -> str:
    """A value of a figure as text."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


NOT_INSTALLED, TOO_LARGE = "is not installed", "does not fit into the device's memory"
EXPECTED = (NOT_INSTALLED, TOO_LARGE)
"""Why an arm may be left out without anything being wrong."""


def reason(error: BaseException) -> str:
    """Why an arm is left out, in a line: `MONAI is not installed`, or what went wrong."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.split(".")[0]
        return f"{NAMES.get(package, package)} {NOT_INSTALLED}"
    if isinstance(error, torch.OutOfMemoryError):
        return TOO_LARGE
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


NAMES = {"monai": "MONAI", "torchio": "TorchIO", "nnunetv2": "nnU-Net", "batchgenerators": "nnU-Net"}
"""Of packages, as people write them, or of what needs them."""


def table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned text.

    Args:
        columns: heading of each key.
        rows: figures; what they lack is a dash.
    """
    cells = [list(columns.values()), *([shown(row.get(key)) for key in columns] for row in rows)]
    width = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(line, width, strict=True)).rstrip() for line in cells)
