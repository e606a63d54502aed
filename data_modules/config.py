"""Typed settings of everything between files and batches. Plain dataclasses: no torch, no arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data_modules.settings import (
    AT_LEAST_ONE,
    AT_LEAST_ZERO,
    LENGTHS,
    NOT_NEGATIVE,
    SHARE,
    SHARE_ABOVE_ZERO,
    SHARE_BELOW_ONE,
    SIZES,
    Rule,
    choice,
    setting,
)

ANGLE_DEG = Rule(lambda v: 0 <= v <= 180, "a number from 0 to 180")
WINDOW_HU = Rule(
    lambda v: -1e5 <= v[0] <= v[1] - 1 and v[1] <= 1e5,
    "[low, high] with low below high by at least 1 HU, from -100000 to 100000",
)
THICKNESS_RANGE_MM = Rule(
    lambda v: 0 < v[0] <= v[1] <= 100, "[thinnest, thickest], greater than 0 and at most 100, the thinnest first"
)
BLUR_MM = Rule(lambda v: 0 <= v <= 100, "a number from 0 to 100")
ROUNDNESS = Rule(lambda v: 0 <= v[0] <= v[1] <= 1, "[least, most], from 0 to 1, the least first")
WIDENING = Rule(lambda v: 1 <= v[0] <= v[1] <= 4, "[least, most], from 1 to 4, the least first")
GAMMA = Rule(lambda v: 0.1 <= v[0] <= v[1] <= 10, "[least, most], from 0.1 to 10, the least first")
TRANSFORMS = Rule(
    lambda v: all("." in text for text in v), "import paths of TorchIO transforms, each with or without (name=value, …)"
)
FOLDS = Rule(
    lambda v: all(0 <= fold < 1000 for fold in v) and len(set(v)) == len(v), "other folds, from 0 to 999, each once"
)
CONDITIONS = {"position": 3, "slice_thickness": 1, "spacing": 3}
"""What a network can be told beside the image, and how many numbers that is."""
WINDOW_JITTER_HU = Rule(lambda v: 0 <= v <= 1e4, "a number from 0 to 10000")


def region_voxels(spacing_mm: Sequence[float], size_mm: Sequence[float]) -> tuple[int, int, int]:
    """Voxels along x, y, z that cover a size, rounded up."""
    x, y, z = (max(1, math.ceil(mm / step - 1e-6)) for mm, step in zip(size_mm, spacing_mm, strict=True))
    return x, y, z


@dataclass(kw_only=True)
class GridConfig:
    """The common grid that networks see, and the region of interest it covers."""

    spacing_mm: tuple[float, float, float] = setting((0.8, 0.8, 1.6), LENGTHS)
    """Voxel size along x, y, z."""
    roi_mm: tuple[float, float, float] = setting((80.0, 64.0, 48.0), LENGTHS)
    """Extent of the region of interest around the cavernous sinus (x, y, z)."""
    template: str | tuple[str, ...] | None = None
    """CT template (NIfTI, HU, in MNI space) to register whole heads to, or a list of them: the column `age` chooses by
    the age group in each template's JSON file (`{"AgesYears": [60, 120]}`), else the most similar is taken. Without one
    a built-in, simulated head serves. Scans that have been cut around the region already are not registered."""
    profile: str = choice("overlap", "gaussian", "linear")
    """How voxels are averaged where the common grid is coarser than the scan: exact overlap, a Gaussian of the
    matching variance, or (to measure what that costs) plain linear sampling."""

    @property
    def region(self) -> tuple[int, int, int]:
        """Voxels of the region along x, y, z."""
        return region_voxels(self.spacing_mm, self.roi_mm)


@dataclass(kw_only=True)
class SamplingConfig:
    """Where training patches are cut."""

    crop: tuple[int, int, int] = setting((48, 48, 24), SIZES)
    """Patch size in voxels of the common grid (x, y, z)."""
    samples_per_epoch: int = setting(200, AT_LEAST_ONE)
    """Patches in one epoch, over all devices."""
    lesion_fraction: float = setting(0.67, SHARE)
    """Share of the patches that are placed around a lesion component (where the scan has one)."""
    jitter: float = setting(0.8, SHARE)
    """How far the lesion may lie from the patch's centre, as a share of half the patch."""


@dataclass(kw_only=True)
class AugmentationConfig:
    """Random changes of a training patch; probabilities are per patch."""

    enabled: bool = True
    """Switches all augmentation."""
    engine: str = choice("batched", "torchio")
    """batched: whole batches at once in torch, on the device that trains; torchio: patch by patch with TorchIO's
    transforms on the host, the reference that the other is checked against. Both make the same samples, up to the
    rounding of interpolation."""
    pretraining: str = choice("spatial", "all")
    """What pre-training patches undergo. spatial: mirrored, rotated and scaled alone, since noise, blur and thicker
    slices in what is to be restored teach a network to restore noise and blur; all: as in segmentation."""
    extra: tuple[str, ...] = setting((), TRANSFORMS)
    """TorchIO transforms of your own, on the host, before all others:
    `torchio.RandomBiasField(coefficients=0.3, p=0.2)`, `my_package.transforms.Metal`."""
    flip_probability: float = setting(0.5, SHARE)
    """Mirror left and right (x axis)."""
    affine_probability: float = setting(0.2, SHARE)
    """Rotate and scale."""
    rotation_deg: float = setting(10.0, ANGLE_DEG)
    """Largest rotation about each axis."""
    scale: float = setting(0.1, SHARE_BELOW_ONE)
    """Largest relative change of size."""
    thickness_probability: float = setting(0.3, SHARE)
    """Re-image the patch with thicker slices through a slice profile."""
    thickness_range_mm: tuple[float, float] = setting((2.0, 6.0), THICKNESS_RANGE_MM)
    """Range of the thicker slices."""
    profile_roundness: tuple[float, float] = setting((0.0, 1.0), ROUNDNESS)
    """Range of the slice profile's shape: 0 is a box, 1 a triangle, trapezia between."""
    profile_widening: tuple[float, float] = setting((1.0, 1.3), WIDENING)
    """Range of the profile's full width at half maximum over the nominal slice thickness."""
    thickness_label: str = choice("protocol", "occupancy")
    """What is taught on thicker slices. protocol: what a reader draws there, whole thick voxels of at least 130 HU that
    are calcification rather than bone, no single ones; occupancy: the label's share of each voxel, through the
    profile."""
    noise_probability: float = setting(0.3, SHARE)
    """Add Gaussian noise."""
    noise_hu: float = setting(20.0, NOT_NEGATIVE)
    """Largest standard deviation of the noise."""
    blur_probability: float = setting(0.1, SHARE)
    """Blur (reconstruction kernel)."""
    blur_mm: float = setting(0.8, BLUR_MM)
    """Largest standard deviation of the blur."""
    intensity_probability: float = setting(0.3, SHARE)
    """Change HU by a gain and an offset (scanner calibration, beam energy)."""
    gain: float = setting(0.05, SHARE_BELOW_ONE)
    """Largest relative change of HU."""
    offset_hu: float = setting(10.0, NOT_NEGATIVE)
    """Largest offset."""
    gamma_probability: float = setting(0.0, SHARE)
    """Bend brightness inside the window by a power: both ends stay, what lies between darkens or lightens."""
    gamma: tuple[float, float] = setting((0.7, 1.5), GAMMA)
    """Range of the power; a power and its inverse are as likely."""
    window_probability: float = setting(0.0, SHARE)
    """Move both ends of the HU window."""
    window_jitter_hu: float = setting(50.0, WINDOW_JITTER_HU)
    """How far each end of the window moves at most (less than half the window)."""

    def of_task(self, task: str) -> AugmentationConfig:
        """What patches of a task undergo: `pretrain` leaves out what changes HU, but for `extra`, under `spatial`."""
        if task != "pretrain" or self.pretraining == "all":
            return self
        names = ("thickness", "noise", "blur", "intensity", "gamma", "window")
        off: dict[str, Any] = {f"{name}_probability": 0.0 for name in names}
        return replace(self, **off)

    @property
    def extra_in_use(self) -> tuple[str, ...]:
        """`extra`, unless all augmentation is switched off."""
        return self.extra if self.enabled else ()


@dataclass(kw_only=True)
class DataConfig:
    """Which scans, on which grid, cut and changed how."""

    cohort: str = "data/phantom/cohort.csv"
    """Cohort table; paths in it are relative to it."""
    fold: int | None = setting(None, AT_LEAST_ZERO)
    """Fold whose patients are the development set, those of the other folds being fine-tuned on; null: as the column
    `split` says."""
    more_folds: tuple[int, ...] = setting((), FOLDS)
    """Further folds beside it; an ensemble of folds holds out those of all its members."""
    prepared_dir: str | None = None
    """Where prepared volumes are kept; by default `prepared/` beside the cohort table."""
    prepare_workers: int = setting(2, AT_LEAST_ONE)
    """Processes that prepare volumes."""
    window_hu: tuple[float, float] = setting((-200.0, 1000.0), WINDOW_HU)
    """Fixed HU window: clipped to it and scaled to [-1, 1]."""
    grid: GridConfig = field(default_factory=GridConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    batch_size: int = setting(2, AT_LEAST_ONE)
    """Patches a step on one device."""
    num_workers: int = setting(0, AT_LEAST_ZERO)
    """Loader processes a device; 0 loads in the training process."""
    residency: str = choice("auto", "device", "host", "disk")
    """Where the training volumes are kept: in the memory of the GPU that trains, in the host's, or on disk as memory
    maps. auto: the first of the three that they fit. Without a GPU, device is host."""
    residency_share: float = setting(0.5, SHARE_ABOVE_ZERO)
    """Share of the GPU's free memory (or of a training process's part of the host's) that they may take under auto."""
    labelled_fraction: float = setting(1.0, SHARE_ABOVE_ZERO)
    """Share of the fine-tuning patients that is used (for ablations); chosen by the seed."""
