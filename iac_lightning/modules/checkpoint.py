"""Checkpoints that are whole or absent, and that are data only: nothing in them is ever executed."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from data_modules.errors import UserError
from data_modules.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin: writes beside, flushes, then moves in one step; reads with ``weights_only=True``.

    A process killed while it saves leaves the previous checkpoint untouched. Lightning's own saving does not flush to
    disk, and its own reading unpickles.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; it must hold tensors and plain types only.

        Raises:
            DiskFull: when there is no room; the previous checkpoint is as it was.
            TypeError: naming the entries that could not be read back with ``weights_only=True``, such as a dataclass
                or an OmegaConf node that `save_hyperparameters` put there. Found when saving, not when resuming.
            RuntimeError: torch's own, when it cannot write for another reason than room.
        """
        if storage_options is not None:
            raise TypeError("storage_options are not supported")
        foreign = [f"{key} ({kind})" for key, kind in _foreign(checkpoint)]
        if foreign:
            raise TypeError(
                f"a checkpoint holds only tensors and plain types, so that it loads without unpickling; not: "
                f"{', '.join(foreign[:5])}"
            )
        with replacing(Path(path)) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError:  # torch's own words do not say that the disk is full; writing on does
                with temporary.open("ab") as file:
                    file.write(bytes(2**20))
                raise

    def load_checkpoint(
        self, path: str | Path, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """As `load_checkpoint`; `weights_only` is always True, whatever the caller says."""
        return load_checkpoint(Path(path), map_location or (lambda storage, _: storage))


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint's tensors and plain types.

    Raises:
        UserError: when the file is absent, cut off, damaged, or holds anything but tensors and plain types.
    """  # noqa: DOC501 - `_damaged` makes a UserError
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint. Give a .ckpt file of a run, or train first.") from None
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is None:  # torch's own text advises to switch the protection off: not repeated
            raise _damaged(path, "not the format of a checkpoint") from error
        raise UserError(
            f"{path}: holds a Python object ({foreign.group(1)}) beside tensors, and loading it could run foreign "
            "code, so it is refused. Give a checkpoint that this project has written."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(path, (str(error).splitlines() or [type(error).__name__])[0][:200]) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint. Give a .ckpt file of a run.")
    return checkpoint


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: damaged or cut off, cannot be read ({reason}). Delete it to continue from another checkpoint of the "
        "run, or restore it from a backup."
    )


def _foreign(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Key and type of each entry that ``weights_only=True`` refuses."""
    if isinstance(value, dict):
        return [found for k, v in value.items() for found in _foreign(v, f"{key}.{k}" if key else str(k))]
    if type(value) in (list, tuple, set):
        return [found for i, v in enumerate(value) for found in _foreign(v, f"{key}[{i}]")]
    plain = (str, int, float, bool, bytes, complex, type(None))
    tensors = (torch.Tensor, torch.Size, torch.dtype, torch.device)
    return [] if type(value) in plain or isinstance(value, tensors) else [(key, type(value).__name__)]
