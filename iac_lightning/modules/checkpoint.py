"""Checkpoints that are whole or absent, and that are data only: nothing in them is ever executed.

The file is torch's ZIP archive: every tensor stands in it with its size and CRC-32. torch writes the sums and does not
look at them; `load_checkpoint` does. Those sums are made anew where a changed tensor is saved again, so a checkpoint
also holds the SHA-256 of what was learnt (`SUMS`).
"""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from data_modules.cohort.leakage import is_seen_patients
from data_modules.errors import UserError
from data_modules.files import replacing

LEARNT = ("state_dict", "current_model_state", "optimizer_states")
"""Entries of a checkpoint that training changes: the weights, with `optimizer.ema_decay` those before averaging, and
the moments of the optimiser."""

SUMS = "sha256"
"""Entry of a checkpoint: SHA-256 by name of each tensor of `LEARNT`, as it was when the training wrote it. Checkpoints
of before have none."""

_OF_A_TRAINING = (
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "loops",
    "epoch",
    "global_step",
    "pytorch-lightning_version",
)


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
        sums = _sums(checkpoint)
        with replacing(Path(path)) as temporary:
            try:
                torch.save({**checkpoint, SUMS: sums} if sums else checkpoint, temporary)
            except RuntimeError:  # torch's own words do not say that the disk is full; writing on does
                with temporary.open("ab") as file:
                    file.write(bytes(2**20))
                raise

    def load_checkpoint(
        self, path: str | Path, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """As `load_training`; `weights_only` is always True, whatever the caller says."""
        return load_training(Path(path), map_location or (lambda storage, _: storage))


def load_training(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint that a training goes on from.

    Raises:
        UserError: as `load_checkpoint`, when it holds no training, and when a value of the weights or of the optimiser
            is not finite, or not the one that was saved.
    """
    checkpoint = load_checkpoint(path, map_location)
    if missing := [key for key in _OF_A_TRAINING if key not in checkpoint]:
        raise UserError(
            f"{path}: is not a checkpoint of a training (it has no {', '.join(missing)}). Put back the one that the "
            "run has written, or delete it to begin the run anew."
        )
    check_finite(_learnt(checkpoint), path)
    _check_unchanged(checkpoint, path)
    return checkpoint


@dataclass(frozen=True)
class SavedModel:
    """What a checkpoint of this project tells of its network, beside what only a training needs.

    Attributes:
        state: its weights by name, all finite.
        config: the settings it was trained with, as `config.stored.config_dict` gave them.
        trained_on: whom it has seen, as salted hashes (`cohort.leakage.seen_patients`), one record a training.
    """

    state: dict[str, Tensor]
    config: dict[str, Any]
    trained_on: list[dict[str, Any]]

    def load_into(self, network: nn.Module, path: Path) -> None:
        """Give a network these weights.

        Args:
            network: built from the run's settings; changed in place.
            path: where the weights come from, for the message.

        Raises:
            UserError: when they are those of another network.
        """
        check_fits(self.state, network.state_dict(), path)
        network.load_state_dict(self.state)


def load_model(path: Path) -> SavedModel:
    """The network of a checkpoint, to predict with or to start another from.

    Raises:
        UserError: as `load_checkpoint`, when this project has not written it, and when a weight is not finite, or not
            the one that was saved.
    """
    checkpoint = load_checkpoint(path)
    own, weights = checkpoint.get("iac"), checkpoint.get("state_dict")
    if not (
        isinstance(own, dict)
        and isinstance(own.get("config"), dict)
        and is_seen_patients(own.get("trained_on"))
        and isinstance(weights, dict)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items())
    ):
        raise UserError(f"{path}: is not a checkpoint of this project. Give a .ckpt file, or the folder, of a run.")
    check_finite(weights, path)
    _check_unchanged(checkpoint, path)
    state = {k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")}
    return SavedModel(state, own["config"], own["trained_on"])


def check_finite(tensors: Mapping[str, Any], path: Path) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        tensors: by name, in nested dictionaries and lists.
        path: where they come from, for the message.

    Raises:
        UserError: naming the first of them.
    """
    broken = not_finite(tensors)
    if broken:
        raise UserError(
            f"{path}: {len(broken)} of its tensors hold values that are not finite, such as {broken[0]}: the training "
            "that wrote it had diverged, or the file was changed. Restore it from a backup, or delete the run and "
            "train again (where it diverges again: at a lower optimizer.lr)."
        )


def _check_unchanged(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse what a training has learnt where it was changed after it was saved.

    Raises:
        UserError: naming the first tensor that differs.
    """
    saved = checkpoint.get(SUMS, {})
    now = _sums(checkpoint) if isinstance(saved, dict) and saved else {}
    if changed := [name for name in now if name in saved and saved[name] != now[name]]:
        raise UserError(
            f"{path}: {len(changed)} of its tensors are not those that the training has saved, such as {changed[0]}: "
            "the file was changed. Restore it from a backup, or train again."
        )


def _sums(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the bytes of each tensor of `LEARNT`, by name; about a second for a gigabyte."""
    return {
        name: hashlib.sha256(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data).hexdigest()
        for name, tensor in _tensors(_learnt(checkpoint), "")
    }


def _learnt(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    return {key: checkpoint[key] for key in LEARNT if key in checkpoint}


def check_fits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Refuse the weights of another network.

    Args:
        state: the weights.
        expected: those of the network they are for.
        path: where they come from, for the message.

    Raises:
        UserError: naming the first tensors that are missing, of another shape or unknown.
    """
    wrong = [
        f"{name} is {tuple(state[name].shape) if name in state else 'missing'}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name not in state or state[name].shape != tensor.shape
    ]
    wrong += [f"{name} has no place in it" for name in state if name not in expected]
    if wrong:
        raise UserError(
            f"{path}: is not of the network that the run's settings describe ({len(wrong)} of its tensors differ: "
            f"{'; '.join(wrong[:3])}). Put back the checkpoint that the run has written, or train again."
        )


def not_finite(value: Any, name: str = "") -> list[str]:
    """Names of the floating point tensors, in nested dictionaries and lists, that hold NaN or infinity."""
    return [key for key, tensor in _tensors(value, name) if not bool(tensor.isfinite().all())]


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield name, value
    elif isinstance(value, (Mapping, list, tuple)):
        for key, one in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _tensors(one, f"{name}.{key}" if name else str(key))


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint's tensors and plain types.

    Raises:
        UserError: when the file is absent, a link, cut off, damaged (a tensor does not have its checksum), or holds
            anything but tensors and plain types.
    """  # noqa: DOC501 - `_damaged` makes a UserError
    if Path(path).is_symlink():
        raise UserError(
            f"{path}: is a link, and checkpoints are read from files alone: give the file, or copy it here."
        )
    try:
        _check_sums(path)
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint. Give a .ckpt file of a run, or train first.") from None
    except (UserError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is None:  # torch's own text advises to switch the protection off: not repeated
            raise _damaged(path, "not the format of a checkpoint") from error
        raise UserError(
            f"{path}: holds a Python object ({foreign.group(1)}) beside tensors, and loading it could run foreign "
            "code, so it is refused. Give a checkpoint that this project has written."
        ) from error
    except Exception as error:  # whatever zipfile and torch make of foreign bytes
        raise _damaged(path, (str(error).splitlines() or [type(error).__name__])[0][:200]) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint. Give a .ckpt file of a run.")
    return checkpoint


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: damaged or cut off, cannot be read ({reason}). Restore it from a backup; or delete it: the same "
        "command then continues from an older checkpoint of the run, or begins it anew where there is none."
    )


def _check_sums(path: Path) -> None:
    """Compare every member of the archive with its CRC-32; about a second for a gigabyte.

    Raises:
        zipfile.BadZipFile: naming the first that differs, and for what is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise zipfile.BadZipFile("not the format of a checkpoint: it is compressed")  # nothing is ever inflated
        broken = archive.testzip()
    if broken is not None:
        raise zipfile.BadZipFile(f"{broken} does not have its checksum")


def _foreign(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Key and type of each entry that ``weights_only=True`` refuses."""
    if isinstance(value, dict):
        return [found for k, v in value.items() for found in _foreign(v, f"{key}.{k}" if key else str(k))]
    if type(value) in (list, tuple, set):
        return [found for i, v in enumerate(value) for found in _foreign(v, f"{key}[{i}]")]
    plain = (str, int, float, bool, bytes, complex, type(None))
    tensors = (torch.Tensor, torch.Size, torch.dtype, torch.device)
    return [] if type(value) in plain or isinstance(value, tensors) else [(key, type(value).__name__)]
