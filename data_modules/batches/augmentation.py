"""Random changes of a training patch: TorchIO's transforms, and thicker slices through a true box profile.

Every random number comes from the caller's generator. TorchIO's transforms are therefore used in their deterministic
form, with explicit parameters, and through `apply_transform`: calling them draws from torch's global generator, and
`tio.Noise` reseeds it (on GPUs too). Noise is drawn as `tio.Noise` does, from a generator of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray

from data_modules.config import AugmentationConfig
from data_modules.scan.geometry import AIR_HU, Grid, Volume, lps_from_ras
from data_modules.scan.resampling import reimage, resample_image

_SLICE_AXIS = 2
_LEFT_RIGHT = 0


class Augmentation:
    """Changes patches of the common grid (axes nearest to RAS+).

    `spatial` moves image and label together; `intensity` changes HU alone. Between the two lies what depends on true
    HU, such as the region in which the loss counts. Both are the identity where `config.enabled` is False.

    Args:
        config: probabilities and ranges.
        spacing_mm: voxel size of the patches.
    """

    def __init__(self, config: AugmentationConfig, spacing_mm: tuple[float, float, float]) -> None:
        self.config = config
        self.spacing_mm = spacing_mm

    def spatial(
        self,
        hu: NDArray[np.float32],
        occupancy: NDArray[np.float32] | None,
        thickness_mm: float,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, float]:
        """Mirror, rotate and scale, then re-image with thicker slices.

        The label stays what it is on the common grid, the share of each voxel that calcium fills, and goes through
        the same slice profile as the image. It keeps the lesion's volume: the network learns to find in thick slices
        what was labelled on thin ones, rather than what a reader would still have seen.

        Args:
            hu: `[X, Y, Z]`.
            occupancy: `[X, Y, Z]` in [0, 1], or None.
            thickness_mm: width of the slice profile along z.
            rng: source of all randomness.

        Returns:
            HU, occupancy (both may be views) and the slice thickness now.
        """
        config = self.config
        if not config.enabled:
            return hu, occupancy, thickness_mm
        if rng.random() < config.flip_probability:
            hu = np.flip(hu, _LEFT_RIGHT)
            occupancy = None if occupancy is None else np.flip(occupancy, _LEFT_RIGHT)
        if rng.random() < config.affine_probability:
            scales = rng.uniform(1 - config.scale, 1 + config.scale, 3)
            degrees = rng.uniform(-config.rotation_deg, config.rotation_deg, 3)
            hu, occupancy = self.affine(hu, occupancy, scales.tolist(), degrees.tolist())
        if rng.random() < config.thickness_probability:
            thicker_mm = float(rng.uniform(*config.thickness_range_mm))
            own_mm = max(thickness_mm, self.spacing_mm[_SLICE_AXIS])  # the common grid has averaged over its own voxels
            if thicker_mm > own_mm:
                profile = thick_slices(hu.shape[_SLICE_AXIS], self.spacing_mm[_SLICE_AXIS], own_mm, thicker_mm)
                hu = _through(hu, profile)
                occupancy = None if occupancy is None else _through(occupancy, profile)
                thickness_mm = thicker_mm
        return hu, occupancy, thickness_mm

    def intensity(self, hu: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Gain and offset, blur in the slice plane (where a reconstruction kernel acts), noise.

        Args:
            hu: `[X, Y, Z]`; may be changed in place.
            rng: source of all randomness.
        """
        config = self.config
        if not config.enabled:
            return hu
        if rng.random() < config.intensity_probability:
            hu *= np.float32(rng.uniform(1 - config.gain, 1 + config.gain))
            hu += np.float32(rng.uniform(-config.offset_hu, config.offset_hu))
        if rng.random() < config.blur_probability:
            sigma_mm = float(rng.uniform(0, config.blur_mm))
            blur = tio.Blur(std=(sigma_mm, sigma_mm, 0.0))
            hu = _apply(blur, tio.ScalarImage(tensor=_tensor(hu), affine=np.diag([*self.spacing_mm, 1.0])))
        if rng.random() < config.noise_probability:
            sigma_hu = float(rng.uniform(0, config.noise_hu))
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
            hu += torch.randn(hu.shape, generator=generator).mul_(sigma_hu).numpy()
        return hu

    def affine(
        self,
        hu: NDArray[np.float32],
        occupancy: NDArray[np.float32] | None,
        scales: tuple[float, float, float],
        degrees: tuple[float, float, float],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Rotate, then scale about the patch's centre (`tio.Affine`); air comes in from outside.

        Both are interpolated linearly: the label is soft.
        """
        transform = tio.Affine(
            scales=scales,
            degrees=degrees,
            translation=(0.0, 0.0, 0.0),
            center="origin",
            default_pad_value=AIR_HU,
            default_pad_label=0,
            label_interpolation="linear",
        )
        around_origin = np.diag([*self.spacing_mm, 1.0])
        around_origin[:3, 3] = np.multiply(self.spacing_mm, np.subtract(1, hu.shape) / 2)
        grid = Grid(hu.shape, around_origin)
        moved = _apply(transform, tio.ScalarImage(tensor=_tensor(hu), affine=grid.affine))
        if occupancy is None or not occupancy.any():
            return moved, occupancy
        box = _reach(occupancy, grid, transform)  # interpolation takes long, and lesions are small
        start = grid.crop(tuple(side.start for side in box), (1, 1, 1))
        label = np.zeros_like(occupancy)
        label[box] = _apply(transform, tio.LabelMap(tensor=_tensor(occupancy[box]), affine=start.affine))
        return moved, label


def thick_slices(n: int, spacing_mm: float, thickness_mm: float, thicker_mm: float) -> NDArray[np.float32]:
    """`[n, n]`, column k the weights with which n slices give slice k after passing through a thicker-sliced scan.

    The scan is re-imaged as contiguous slices of `thicker_mm` and brought back to its spacing as any thick-sliced
    scan is: by linear interpolation, which invents no detail. Columns sum to 1.
    """
    grid = Grid((1, n, n), np.diag([1.0, 1.0, spacing_mm, 1.0]))
    impulses = Volume(np.eye(n, dtype=np.float32)[None], grid)
    thick = reimage(impulses, _SLICE_AXIS, thickness_mm, thicker_mm, target_spacing_mm=thicker_mm)
    return resample_image(thick, grid, slab_mm=(1.0, 1.0, thicker_mm)).data[0]


def _apply(transform: Any, image: tio.Image) -> NDArray[np.float32]:
    """`[X, Y, Z]` of a TorchIO image after a deterministic transform."""
    array: NDArray[np.float32] = transform.apply_transform(tio.Subject(image=image))["image"].data[0].numpy()
    return array


def _reach(occupancy: NDArray[np.float32], grid: Grid, transform: Any) -> tuple[slice, slice, slice]:
    """The box of a patch that holds all that is labelled, both before and after an affine transform."""
    voxels = np.argwhere(occupancy)
    box = np.stack([voxels.min(axis=0) - 1, voxels.max(axis=0) + 1])  # interpolation spreads to the next voxel
    corners = grid.to_ras_mm(np.stack(np.meshgrid(*box.T), axis=-1).reshape(-1, 3))
    forward = transform.get_affine_transform(tio.LabelMap(tensor=torch.zeros(1, 2, 2, 2))).GetInverse()
    moved = [lps_from_ras(forward.TransformPoint(lps_from_ras(point))) for point in corners]
    both = np.concatenate([box, grid.to_index(moved)])
    low = np.clip(np.floor(both.min(axis=0)).astype(int), 0, None)
    high = np.clip(np.ceil(both.max(axis=0)).astype(int) + 1, None, occupancy.shape)
    x, y, z = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    return x, y, z


def _through(array: NDArray[np.float32], profile: NDArray[np.float32]) -> NDArray[np.float32]:
    """`[X, Y, Z]` through an operator along z; by torch, whose threads a loader's worker limits to one."""
    return torch.matmul(_tensor(array)[0], torch.from_numpy(profile)).numpy()


def _tensor(array: NDArray[np.float32]) -> torch.Tensor:
    """`[1, X, Y, Z]`; torch holds no views with negative strides (mirrored arrays)."""
    return torch.from_numpy(np.ascontiguousarray(array))[None]
