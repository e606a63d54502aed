"""What an image is, however it is stored: digests of its Hounsfield units, and a small picture that a copy resembles.

A digest is of how many voxels have which HU, not of bytes. It is the same after compression, in another format, with
another header, flipped or with axes in another order, and with air cut away or added. One digest is of the whole
image, the others of slices, so that a part of a stack is known again. An image whose voxels were changed (noise, other
units, other voxels) has other digests; its thumbnail still looks like that of the original.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from data_modules.scan.hounsfield import to_int16
from data_modules.scan.scan import Scan

ABOVE_HU = -500
"""Only voxels of more HU count: air around a head may be cut away."""

ALIKE = 0.99
"""Correlation of two thumbnails from which on they are taken for one image (225 phantom scans: 0.95 at most between
patients, 0.999 at least after noise of 20 HU)."""

_MOST_HU = 3071
_FEWEST_VALUES = 32
_SLICES = 15
_DIGITS = 16
_CELLS = (10, 8, 8)
_WINDOW_HU = (-200, 800)


def image_digests(scan: Scan) -> tuple[str, ...]:
    """Digests of the whole image (the first) and of up to 15 of its slices, 16 hexadecimal digits each.

    Which slices they are follows from their content (the smallest digests), so that two stacks that share slices are
    likely to share some of these. Nothing is said of images and slices with hardly any contrast.

    Returns:
        The digests; none of an image without contrast.
    """
    hu = np.moveaxis(to_int16(scan.hu), scan.slice_axis, 0)
    slices = [_counts(part) for part in hu]
    whole = _digest(np.sum(slices, axis=0))
    of_slices = sorted({digest for counts in slices if (digest := _digest(counts))} - {whole})
    return (whole, *of_slices[:_SLICES]) if whole else ()


def shares_image(digests: Sequence[str], known: Iterable[str]) -> bool:
    """Whether an image, by its digests, is one of those, or a part of it, that some known digests are of.

    One slice alone may be like another by accident; two are not.
    """
    shared = set(digests).intersection(known)
    return bool(digests) and (digests[0] in shared or len(shared) > 1)


def thumbnail(hu: NDArray[np.integer]) -> str:
    """A picture of 10 × 8 × 8 mean HU of a prepared region `[X, Y, Z]`, in hexadecimal digits."""
    small = np.clip(hu, *_WINDOW_HU).astype(np.float32)
    for axis, n in enumerate(_CELLS):
        edges = np.linspace(0, small.shape[axis], n + 1).astype(int)
        sizes = np.maximum(np.diff(edges), 1)
        first = np.minimum(edges[:-1], small.shape[axis] - 1)
        small = np.add.reduceat(small, first, axis=axis) / np.expand_dims(sizes, tuple({0, 1, 2} - {axis}))
    low, high = _WINDOW_HU
    return np.rint((small - low) / (high - low) * 255).clip(0, 255).astype(np.uint8).tobytes().hex()


def resemblance(some: Sequence[str], others: Sequence[str]) -> NDArray[np.float32]:
    """Correlation `[some, others]` of thumbnails, the larger one of that and of that with the mirror image."""
    rows, columns = _pictures(some), _pictures(others)
    plain = rows.reshape(len(rows), -1) @ columns.reshape(len(columns), -1).T
    mirrored = rows.reshape(len(rows), -1) @ columns[:, ::-1].reshape(len(columns), -1).T
    return np.maximum(plain, mirrored)


def _pictures(thumbnails: Sequence[str]) -> NDArray[np.float32]:
    flat = np.frombuffer(bytes.fromhex("".join(thumbnails)), np.uint8).astype(np.float32).reshape(len(thumbnails), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return (flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)).reshape(-1, *_CELLS)


def _counts(hu: NDArray[np.int16]) -> NDArray[np.int64]:
    """How many voxels have each HU from `ABOVE_HU` + 1 to the most; more counts as the most."""
    steps = np.clip(hu, ABOVE_HU, _MOST_HU).ravel().astype(np.intp)
    steps -= ABOVE_HU
    return np.bincount(steps, minlength=_MOST_HU - ABOVE_HU + 1)[1:]


def _digest(counts: NDArray[np.int64]) -> str:
    if np.count_nonzero(counts) < _FEWEST_VALUES:
        return ""
    return hashlib.sha256(counts.astype("<i8").tobytes()).hexdigest()[:_DIGITS]
