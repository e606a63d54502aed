"""Typed settings of everything between files and batches. Plain dataclasses: no torch, no arrays."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class GridConfig:
    """The common grid that networks see, and the region of interest it covers."""

    spacing_mm: tuple[float, float, float] = (0.8, 0.8, 1.6)
    """Voxel size along x, y, z."""
    roi_mm: tuple[float, float, float] = (80.0, 64.0, 48.0)
    """Extent of the region of interest around the cavernous sinus (x, y, z)."""
    template: str | None = None
    """CT template (NIfTI, HU) to register each scan to. Without one, scans are taken to be centred on the region."""
    profile: str = field(default="overlap", metadata={"choices": ("overlap", "gaussian", "linear")})
    """How voxels are averaged where the common grid is coarser than the scan: exact overlap, a Gaussian of the
    matching variance, or (to measure what that costs) plain linear sampling."""


@dataclass(kw_only=True)
class SamplingConfig:
    """Where training patches are cut."""

    crop: tuple[int, int, int] = (48, 48, 32)
    """Patch size in voxels of the common grid (x, y, z)."""
    samples_per_epoch: int = 200
    """Patches in one epoch, over all devices."""
    lesion_fraction: float = 0.67
    """Share of the patches that are placed around a lesion component (where the scan has one)."""
    jitter: float = 0.8
    """How far the lesion may lie from the patch's centre, as a share of half the patch."""


@dataclass(kw_only=True)
class AugmentationConfig:
    """Random changes of a training patch; probabilities are per patch. Only TorchIO transforms and our own."""

    enabled: bool = True
    """Switches all augmentation."""
    flip_probability: float = 0.5
    """Mirror left and right (x axis)."""
    affine_probability: float = 0.2
    """Rotate and scale."""
    rotation_deg: float = 10.0
    """Largest rotation about each axis."""
    scale: float = 0.1
    """Largest relative change of size."""
    thickness_probability: float = 0.3
    """Re-image the patch with thicker slices through a true box profile."""
    thickness_range_mm: tuple[float, float] = (2.0, 6.0)
    """Range of the thicker slices."""
    noise_probability: float = 0.3
    """Add Gaussian noise."""
    noise_hu: float = 20.0
    """Largest standard deviation of the noise."""
    blur_probability: float = 0.1
    """Blur (reconstruction kernel)."""
    blur_mm: float = 0.8
    """Largest standard deviation of the blur."""
    intensity_probability: float = 0.3
    """Change HU by a gain and an offset (scanner calibration, beam energy)."""
    gain: float = 0.05
    """Largest relative change of HU."""
    offset_hu: float = 10.0
    """Largest offset."""


@dataclass(kw_only=True)
class DataConfig:
    """Which scans, on which grid, cut and changed how."""

    cohort: str = "data/phantom/cohort.csv"
    """Cohort table; paths in it are relative to it."""
    prepared_dir: str | None = None
    """Where prepared volumes are kept; by default `prepared/` beside the cohort table."""
    prepare_workers: int = 2
    """Processes that prepare volumes."""
    window_hu: tuple[float, float] = (-200.0, 1000.0)
    """Fixed HU window: clipped to it and scaled to [-1, 1]."""
    grid: GridConfig = field(default_factory=GridConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    batch_size: int = 2
    """Patches a step on one device."""
    num_workers: int = 0
    """Loader processes a device; 0 loads in the training process."""
    labelled_fraction: float = 1.0
    """Share of the fine-tuning patients that is used (for ablations); chosen by the seed."""
