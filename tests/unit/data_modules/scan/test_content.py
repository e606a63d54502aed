from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_modules.scan.content import ALIKE, image_digests, resemblance, shares_image, thumbnail
from data_modules.scan.geometry import Grid
from data_modules.scan.scan import Scan


def scan(hu: np.ndarray, slice_axis: int = 2) -> Scan:
    return Scan(hu=hu, grid=Grid(hu.shape, np.eye(4)), slice_thickness_mm=1.0, slice_axis=slice_axis)


def head(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-200, 900, (20, 18, 24)).astype(np.int16)


HEAD = head(0)
KNOWN = image_digests(scan(HEAD))


def test_the_whole_image_and_its_smallest_slices() -> None:
    assert len(KNOWN) == 16
    assert list(KNOWN[1:]) == sorted(KNOWN[1:])
    assert all(len(digest) == 16 for digest in KNOWN)


def test_a_copy_is_known_however_it_is_stored() -> None:
    assert image_digests(scan(HEAD[::-1, :, ::-1])) == KNOWN
    assert image_digests(scan(HEAD.transpose(2, 0, 1), slice_axis=0)) == KNOWN
    assert image_digests(scan(HEAD.astype(np.float32))) == KNOWN
    assert image_digests(replace(scan(HEAD), grid=Grid(HEAD.shape, np.diag([2.0, 3, 4, 1])))) == KNOWN
    assert image_digests(scan(np.pad(HEAD, 3, constant_values=-1024))) == KNOWN
    assert shares_image(image_digests(scan(HEAD[:, :, 8:])), KNOWN)


def test_another_image_is_not_known() -> None:
    assert not shares_image(image_digests(scan(head(1))), KNOWN)
    assert not shares_image(image_digests(scan(HEAD + 1)), KNOWN)
    one_slice = np.concatenate([HEAD[:, :, :1], head(1)], axis=2)
    assert not shares_image(image_digests(scan(one_slice)), KNOWN)  # which may be chance
    assert not shares_image((), KNOWN)


def test_of_an_image_without_contrast_nothing_is_said() -> None:
    assert image_digests(scan(np.full((8, 8, 8), 40, np.int16))) == ()
    flat = HEAD.copy()
    flat[:, :, 3:] = -1024
    assert len(image_digests(scan(flat))) == 4


def test_thumbnails_of_copies_resemble_and_of_others_do_not() -> None:
    smooth = [np.kron(head(k)[:10, :8, :8], np.ones((4, 4, 3))) for k in range(2)]
    noisy = smooth[0] + np.random.default_rng(2).normal(0, 20, smooth[0].shape) + 15
    pictures = [thumbnail(hu.astype(np.int16)) for hu in (smooth[0], smooth[1], noisy, noisy[::-1])]
    found = resemblance(pictures[:2], pictures[2:])
    assert found.shape == (2, 2)
    assert (found[0] > ALIKE).all()
    assert (found[1] < 0.5).all()


@pytest.mark.parametrize("shape", [(10, 8, 8), (3, 2, 1), (41, 33, 9)])
def test_a_thumbnail_of_any_region_is_of_one_size(shape: tuple[int, int, int]) -> None:
    hu = np.full(shape, 300, np.int16)
    assert thumbnail(hu) == "80" * 640  # halfway from -200 to 800
