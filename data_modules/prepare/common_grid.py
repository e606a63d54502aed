"""A region of interest on the common grid that networks see."""

from __future__ import annotations

import numpy as np

from data_modules.config import GridConfig
from data_modules.scan.geometry import Grid, Volume, canonical
from data_modules.scan.hounsfield import to_int16
from data_modules.scan.resampling import resample_image, slab_widths
from data_modules.scan.scan import Scan


def on_common_grid(scan: Scan, region: Scan, grid: GridConfig) -> Volume:
    """HU (int16) around the middle of a region, each axis averaged by the scan's own slice profile.

    Args:
        scan: the scan that the region was cropped from, in any orientation.
        region: from `data_modules.prepare.roi.region_of_interest`.
        grid: the common grid.
    """
    common = region.grid.with_spacing(grid.spacing_mm, grid.roi_mm)
    slab_mm = slab_widths(region.grid, region.slice_axis, region.slice_thickness_mm)
    around = surroundings(scan.volume, region.grid, common)
    image = resample_image(around, common, slab_mm, profile=grid.profile)
    return image.with_data(to_int16(image.data))


def surroundings(volume: Volume, region: Grid, common: Grid) -> Volume:
    """The part of a scan that the common grid is resampled from: the region and a margin, as far as the scan goes.

    So voxels at the region's edge average their true neighbours, and where the scan ends no air is mixed in.
    """
    volume = canonical(volume)
    shape = np.asarray(volume.grid.shape)
    margin = np.ceil(np.asarray(common.spacing_mm) / volume.grid.spacing_mm).astype(int) + 1
    first = np.rint(volume.grid.to_index(region.affine[:3, 3])).astype(int)
    start = np.clip(first - margin, 0, shape - 1)
    stop = np.clip(first + region.shape + margin, start + 1, shape)
    x, y, z = (slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True))
    size_x, size_y, size_z = (stop - start).tolist()
    return Volume(volume.data[x, y, z], volume.grid.crop((x.start, y.start, z.start), (size_x, size_y, size_z)))
