"""TorchIO transforms of a user's own, named in `data.augmentation.extra`."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torchio as tio
from torch import Tensor

from data_modules.batches.philox import EXTRA, random_bits
from data_modules.batches.plan import PatchPlan
from data_modules.batches.volumes import Patches
from data_modules.errors import UserError

_EXAMPLES = "torchio.RandomBiasField(coefficients=0.3, p=0.2) or my_package.transforms.Metal"
_HELP = f"data.augmentation.extra names TorchIO transforms, with arguments by name, such as {_EXAMPLES}"


class ExtraTransforms:
    """Applies a user's transforms to the patches of a batch, one patch after the other, on the host.

    Each transform gets a `torchio.Subject` with ``image`` (HU) and, where patches have them, ``peak`` (HU of the
    brightest native voxel) and ``label`` (a `LabelMap` of occupancy in [0, 1]). Its affine has the voxel size of the
    patches and its origin in the middle of the patch. Random numbers follow from (seed, epoch, index), whichever of the
    global generators (torch's, NumPy's, Python's) they are drawn from, and those go on as if nothing had been drawn.

    Args:
        texts: as in the settings.
        spacing_mm: voxel size of the patches.
        seed: with epoch and index, decides what the transforms draw.

    Raises:
        UserError: for a text that names no transform, or one that does not take its arguments.
    """

    def __init__(self, texts: Sequence[str], spacing_mm: tuple[float, float, float], seed: int) -> None:
        self._transforms = [read_transform(text) for text in texts]
        self._spacing_mm = spacing_mm
        self._seed = seed

    def __len__(self) -> int:
        return len(self._transforms)

    def __call__(self, plan: PatchPlan, patches: Patches) -> Patches:
        """The patches after all transforms, in float32; mirrored and cut before, all else comes after.

        Raises:
            UserError: when a transform fails or gives another shape.
        """
        images = {"image": patches.hu, "peak": patches.peak_hu, "label": _share(patches.occupancy)}
        before = {name: values.to(torch.float32) for name, values in images.items() if values is not None}
        after = {name: torch.empty_like(values) for name, values in before.items()}
        seeds = random_bits(self._seed, EXTRA, plan.epoch, torch.from_numpy(plan.index), 1)[:, 0].tolist()
        for k, seed in enumerate(seeds):
            subject = tio.Subject({name: self._image(name, values[k]) for name, values in before.items()})
            with seeded(seed):
                for transform in self._transforms:
                    subject = _applied(transform, subject)
            for name, values in after.items():
                data = subject[name].data
                if data.shape != values[k].shape:
                    raise UserError(
                        f"data.augmentation.extra: {subject.history[-1].name if subject.history else 'a transform'} "
                        f"changes a patch of {tuple(values.shape[2:])} voxels to {tuple(data.shape[1:])}; leave out "
                        "transforms that crop, pad or resample"
                    )
                values[k] = data
        label = after.get("label")
        return Patches(after["image"], None if label is None else label.clamp_(0, 1), after.get("peak"))

    def _image(self, name: str, data: Tensor) -> tio.Image:
        affine = np.diag([*self._spacing_mm, 1.0])
        affine[:3, 3] = np.multiply(self._spacing_mm, np.subtract(1, data.shape[1:]) / 2)
        kind = tio.LabelMap if name == "label" else tio.ScalarImage
        return kind(tensor=data.clone(), affine=affine)


def read_transform(text: str) -> Any:
    """The TorchIO transform that a setting names: an import path, and arguments by name that are plain values.

    Raises:
        UserError: naming the setting and what is wrong with it.
    """
    try:
        expression = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise UserError(
            f"data.augmentation.extra: {text!r} cannot be read; {_HELP}. In a list, put each in quotes"
        ) from None
    call = expression if isinstance(expression, ast.Call) else None
    path = ast.unparse(expression if call is None else call.func)
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise UserError(f"data.augmentation.extra: {path!r} is no import path; {_HELP}")
    keywords = _arguments(call, text)
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"data.augmentation.extra: {path} cannot be imported ({error}); is it installed where training runs, or "
            "its folder on PYTHONPATH?"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, tio.Transform)):
        raise UserError(f"data.augmentation.extra: {path} is no TorchIO transform (torchio.Transform); {_HELP}")
    try:
        return kind(**keywords)
    except Exception as error:  # whatever a transform of a user's makes of its arguments
        raise UserError(f"data.augmentation.extra: {text} is refused: {error}") from error


def _arguments(call: ast.Call | None, text: str) -> dict[str, Any]:
    if call is None:
        return {}
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise UserError(f"data.augmentation.extra: arguments without a name in {text!r}; {_HELP}")
    values = {}
    for keyword in call.keywords:
        try:
            values[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            raise UserError(
                f"data.augmentation.extra: {ast.unparse(keyword)} in {text!r}: expected a number, a word in quotes, "
                "True, False, None, or a tuple, list or dict of them"
            ) from None
    return values


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global generators that start from a seed inside, and go on outside as if nothing had been drawn.

    Args:
        seed: any 64 bits.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - a user's may use them
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # TorchIO's noise seeds them too
    with torch.random.fork_rng(devices=gpus):
        try:
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
            random.seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def _applied(transform: Any, subject: tio.Subject) -> tio.Subject:
    try:
        return transform(subject)
    except UserError:
        raise
    except Exception as error:  # of a user's code
        raise UserError(f"data.augmentation.extra: {type(transform).__name__} fails on a patch: {error}") from error


def _share(occupancy: Tensor | None) -> Tensor | None:
    if occupancy is None or occupancy.dtype == torch.float32:
        return occupancy
    return occupancy.to(torch.float32).div_(255)
