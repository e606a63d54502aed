"""Find the region of interest: register a scan to a CT template and carry the sella turcica over.

The transform leads from template to scan (both RAS+ mm). Starts at several heights and pitches, scaled by the size of
the head, are tried as similarities on coarse images, and from the best of them looking and leaning to either side. The
best few go on as affines, and the one that is most like the template is finished on finer images. Mattes mutual
information (Mattes et al. 2003) needs no equal intensity, which a smooth average template and a single head do not
have. Every voxel of the coarse template is a sample and one thread sums, so that the same scan gives the same numbers
each time.

What comes out is judged by measures that were not optimised (correlation, scale, rotation, overlap): a registration
that went astray says so. A mirrored head does not: a head and its mirror image fit a template equally well (measured:
docs/explanation/region-of-interest.md), and a template that tells them apart has not been found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import polar

from data_modules.errors import UserError
from data_modules.prepare.templates import BUILT_IN, LEAST_SIMILARITY, fitting_templates, open_templates
from data_modules.scan.geometry import AIR_HU, Grid, Volume, canonical, lps_from_ras, place, to_sitk
from data_modules.scan.resampling import resample_image, slab_widths
from data_modules.scan.scan import Scan

SELLA_MNI_MM = (0.0, 4.0, -31.0)
"""Middle of the sella turcica in the template's (MNI) space, the cavernous sinus and carotid siphon on either side."""

REGISTRATION_VERSION = 2
"""Raised whenever the same scan and template give another place."""

_SCAN_MM = 3.0
_COARSE_MM, _FINE_MM = 8.0, 4.0
WINDOW_HU = (-200.0, 400.0)  # air, soft tissue and bone, whatever the bone's strength
_BODY_HU = -300.0
_AIR_MARGIN_MM = 30.0
_LARGEST_CUT_MM2 = 1500.0  # a head that shows more than this on the outermost slice goes on beyond it
_START_HEIGHTS_MM = (0.0, -30.0, 30.0)
_START_HEIGHTS_CUT_MM = (0.0, 30.0, 60.0, 90.0)  # where the scan ends below the vertex
_START_PITCHES_DEG = (0.0, -20.0, 20.0)
_START_TURNS_DEG = (-15.0, 15.0)
_LOOKING, _LEANING = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)  # axes to turn about
_HEAD_HEIGHT_MM = 170.0  # vertex to skull base: what of the scan is taken to be head, the rest being neck
_START_SCALES = (0.55, 1.4)
_N_CANDIDATES = 3
_PLACING, _REFINING, _FINISHING = 30, 60, 30  # iterations

_SURE_SIMILARITY = 0.7  # more than any head that looks the wrong way has
_SCALE_RANGE = (0.5, 1.5)
_LARGEST_ROTATION_DEG = 45.0
_SMALLEST_OVERLAP = 0.2
_SMALLEST_HEAD_ML = 300.0


Found = tuple[float, Any]
"""Negative mutual information, and the transform that reaches it."""


class RegistrationFailed(UserError):  # noqa: N818 - says what happened; every user error is one
    """The scan could not be brought onto the template; the message says why."""


@dataclass(frozen=True, eq=False)
class Registration:
    """Where a template lies in a scan.

    Attributes:
        affine: `[4, 4]`, template RAS mm to scan RAS mm.
        similarity: correlation of windowed HU over the part of the template's head that the scan shows; 1 is best.
            Two real heads, cut and turned, gave 0.66 and more; wrong headers and other objects 0.51 and less.
        ok: whether the result is believable.
        reason: why not; empty when `ok`.
        template: name of the template.
    """

    affine: NDArray[np.float64]
    similarity: float
    ok: bool
    reason: str
    template: str = ""

    def to_scan(self, template_ras_mm: Any) -> NDArray[np.float64]:
        """Scan positions `[..., 3]` of template positions `[..., 3]` (RAS mm)."""
        return np.asarray(template_ras_mm, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]


def find_roi_center(
    scan: Scan, template: Path | str | Sequence[str] | None, age_years: float | None = None
) -> tuple[NDArray[np.float64], Registration]:
    """The middle of the sella turcica in a scan.

    Args:
        scan: a head CT in any orientation.
        template: CT template in MNI space, NIfTI, HU. Of several those for the patient's age are tried, and the most
            similar is taken; None: the built-in model.
        age_years: of the patient; None where it is not known: all templates are tried.

    Returns:
        `[3]` RAS mm, and the registration it comes from.

    Raises:
        RegistrationFailed: when the scan fits no template or does not show the region.
        UserError: when a template cannot be read.
    """
    templates = fitting_templates(open_templates(template), age_years)
    tried = [
        replace(register_to_template(scan, candidate.volume, candidate.least_similarity), template=candidate.name)
        for candidate in templates
    ]
    best = max(tried, key=lambda found: (found.ok, found.similarity))
    if best.ok:
        return best.to_scan(SELLA_MNI_MM), best
    reasons = "; ".join(f"{found.template}: {found.reason}" for found in tried)
    remedy = (
        "give a CT template of the head in MNI space: data.grid.template=TEMPLATE.nii.gz (iac predict: --template "
        "TEMPLATE.nii.gz)"
        if best.template == BUILT_IN
        else "crop it around the sella turcica yourself"
    )
    raise RegistrationFailed(
        f"the scan could not be registered to {reasons}. Expected a head CT that shows the skull base; check the "
        f"series, {remedy}, or say in the cohort table's column roi_center_lps_mm where the region lies"
    )


def register_to_template(scan: Scan, template: Volume, least_similarity: float = LEAST_SIMILARITY) -> Registration:
    """Affine registration of a CT template to a scan; fails by saying so, not by raising.

    Args:
        scan: a head CT in any orientation; neck, head holder and missing vault are allowed.
        template: `[X, Y, Z]` HU in MNI space.
        least_similarity: of a registration that is believed.
    """
    moving, head = _head(scan)
    head_ml = float(head.sum()) * moving.grid.voxel_volume_mm3 / 1000
    if head_ml < _SMALLEST_HEAD_ML:
        return _failed(f"{head_ml:.0f} ml of connected tissue found, a head has at least {_SMALLEST_HEAD_ML:.0f} ml")
    fixed = _coarse(template, _FINE_MM)
    starts = _starts(fixed.with_data(fixed.data > _BODY_HU), moving.with_data(head))
    fixed = fixed.with_data(np.clip(fixed.data, *WINDOW_HU))
    coarse = to_sitk(_coarse(fixed, _COARSE_MM)), to_sitk(_coarse(moving, _COARSE_MM))
    placed = _optimised(coarse, starts, _PLACING)
    if not placed:
        return _failed("the template finds no place on the scan")
    to_sides = [_turned(placed[0][1], axis, angle) for axis in (_LOOKING, _LEANING) for angle in _START_TURNS_DEG]
    placed = sorted(placed + _optimised(coarse, to_sides, _PLACING), key=_metric)
    # What has the most mutual information at this stage is not always in its place: the best few go on, and a measure
    # that was not optimised decides.
    tried = [transform for _, transform in _optimised(coarse, _as_affines(placed[:_N_CANDIDATES]), _REFINING)]
    verdicts = [judge(_ras_matrix(transform), fixed, moving, scan.grid) for transform in tried]
    if max((verdict.similarity for verdict in verdicts), default=0.0) < _SURE_SIMILARITY:
        # The header may be wrong and the head look back: where that fits best, the judge refuses it.
        back = _optimised(coarse, [_turned(start, _LOOKING, 180.0) for start in starts], _PLACING)
        tried += [transform for _, transform in _optimised(coarse, _as_affines(back[:1]), _REFINING)]
        verdicts = [judge(_ras_matrix(transform), fixed, moving, scan.grid) for transform in tried]
    best = max(range(len(tried)), key=lambda k: verdicts[k].similarity, default=None)
    fine = [] if best is None else _optimised((to_sitk(fixed), to_sitk(moving)), [tried[best]], _FINISHING)
    if not fine:
        return _failed("the template was moved off the scan")
    return judge(_ras_matrix(fine[0][1]), fixed, moving, scan.grid, least_similarity)


def _failed(reason: str) -> Registration:
    return Registration(np.eye(4), 0.0, False, reason)


def _coarse(volume: Volume, spacing_mm: float, slab_mm: tuple[float, float, float] | None = None) -> Volume:
    """Averaged to `spacing_mm` a voxel, in RAS order."""
    grid = volume.grid
    return canonical(resample_image(volume, grid.with_spacing((spacing_mm,) * 3, grid.size_mm), slab_mm))


def _head(scan: Scan) -> tuple[Volume, NDArray[np.bool_]]:
    """The windowed coarse scan with all but the head and neck turned to air, and the mask of what remains."""
    slab = slab_widths(scan.grid, scan.slice_axis, scan.slice_thickness_mm)
    coarse = _coarse(scan.volume, _SCAN_MM, slab)
    body = ndimage.binary_opening(coarse.data > _BODY_HU, iterations=2)  # lets go of the head holder
    labels, n_bodies = ndimage.label(body)
    if n_bodies == 0:
        return coarse, body
    head = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    head = ndimage.binary_dilation(head, iterations=2) & (coarse.data > _BODY_HU)
    inside = ndimage.binary_closing(np.pad(head, 4), iterations=4)[4:-4, 4:-4, 4:-4]  # airways belong to the head
    scan_head = coarse.with_data(np.clip(np.where(inside, coarse.data, AIR_HU), *WINDOW_HU).astype(np.float32))
    # Air goes on beyond the scan wherever the head does not; else leaving the scan would cost the registration nothing.
    margin = round(_AIR_MARGIN_MM / _SCAN_MM)
    before, after = [0, 0, 0], [0, 0, 0]
    for k in range(3):
        cut = _LARGEST_CUT_MM2 / _SCAN_MM**2
        before[k] = margin if head.take(0, axis=k).sum() < cut else 0
        after[k] = margin if head.take(-1, axis=k).sum() < cut else 0
    x, y, z = (b + n + a for b, n, a in zip(before, head.shape, after, strict=True))
    grid = coarse.grid.crop((-before[0], -before[1], -before[2]), (x, y, z))
    return place(scan_head, grid, WINDOW_HU[0]), place(coarse.with_data(head), grid, False).data


def _starts(template_head: Volume, scan_head: Volume) -> list[sitk.Similarity3DTransform]:
    """Similarities that put the template's head onto the scan's, at several heights and pitches, about as large."""
    scale = float(
        np.clip(np.sqrt(_largest_section_mm2(scan_head) / _largest_section_mm2(template_head)), *_START_SCALES)
    )
    template_center, scan_center = _head_center(template_head, 1.0), _head_center(scan_head, scale)
    starts = []
    cut = scan_head.data[:, :, -1].sum() * _SCAN_MM**2 > _LARGEST_CUT_MM2
    for height in _START_HEIGHTS_CUT_MM if cut else _START_HEIGHTS_MM:
        for pitch in _START_PITCHES_DEG:
            start = sitk.Similarity3DTransform()
            start.SetCenter(lps_from_ras(template_center))
            start.SetTranslation(lps_from_ras(scan_center - template_center + np.array([0.0, 0.0, scale * height])))
            start.SetRotation((1.0, 0.0, 0.0), float(np.deg2rad(pitch)))
            start.SetScale(scale)
            starts.append(start)
    return starts


def _turned(
    transform: sitk.Similarity3DTransform, axis: tuple[float, float, float], degrees: float
) -> sitk.Similarity3DTransform:
    """The head turned about an axis through its middle."""
    turn = np.reshape(sitk.VersorTransform(axis, float(np.deg2rad(degrees))).GetMatrix(), (3, 3))
    turned = sitk.Similarity3DTransform(transform)
    turned.SetMatrix((turn @ np.reshape(transform.GetMatrix(), (3, 3))).ravel().tolist())
    return turned


def _largest_section_mm2(head: Volume) -> float:
    """Area of the head on the slice that shows most of it."""
    x, y, _ = head.grid.spacing_mm
    return float(head.data.sum(axis=(0, 1)).max() * x * y)


def _head_center(head: Volume, scale: float) -> NDArray[np.float64]:
    """Middle of the head, of what lies within a head's height below its top."""
    points = head.grid.to_ras_mm(np.argwhere(head.data))
    top = np.percentile(points[:, 2], 99.9)
    height = scale * _HEAD_HEIGHT_MM
    low, high = np.percentile(points[points[:, 2] > top - height], [0.5, 99.5], axis=0)
    return np.array([*((low + high) / 2)[:2], top - height / 2])


def _as_affines(found: Sequence[Found]) -> list[sitk.AffineTransform]:
    """Affines to start from, at the places of similarities."""
    affines = []
    for _, transform in found:
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(transform.GetMatrix())
        affine.SetTranslation(transform.GetTranslation())
        affine.SetCenter(transform.GetCenter())
        affines.append(affine)
    return affines


def _optimised(images: tuple[sitk.Image, sitk.Image], starts: Sequence[Any], iterations: int) -> list[Found]:
    """What each start leads to, the best first; those from which nothing overlaps are left out."""
    found = [_optimise(*images, start, iterations) for start in starts]
    return sorted((one for one in found if one is not None), key=_metric)


def _metric(found: Found) -> float:
    return found[0]


def _optimise(fixed: sitk.Image, moving: sitk.Image, start: Any, iterations: int) -> Found | None:
    """Negative mutual information and the transform that reaches it from `start`; None where nothing overlaps."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)  # the order of summation, and with it the last digits, depends on it
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    method.SetMetricSamplingStrategy(method.NONE)
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0,
        minStep=1e-4,
        numberOfIterations=iterations,
        relaxationFactor=0.6,
        estimateLearningRate=method.EachIteration,  # a fixed rate throws an affine off at its first step
        maximumStepSizeInPhysicalUnits=fixed.GetSpacing()[0] / 2,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    transform = type(start)(start)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # ITK: too few samples map into the moving image
        return None
    return float(method.GetMetricValue()), transform


def _ras_matrix(transform: Any) -> NDArray[np.float64]:
    """`[4, 4]` of a linear SimpleITK transform, in RAS."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(transform.GetMatrix()).reshape(3, 3)
    center = np.asarray(transform.GetCenter())
    matrix[:3, 3] = center + transform.GetTranslation() - matrix[:3, :3] @ center
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return flip @ matrix @ flip


def judge(
    affine: NDArray[np.float64],
    fixed: Volume,
    moving: Volume,
    scan_grid: Grid,
    least_similarity: float = LEAST_SIMILARITY,
) -> Registration:
    """Whether an affine (template to scan, RAS mm) is believable.

    Args:
        affine: `[4, 4]`.
        fixed: the template, windowed HU.
        moving: the scan, windowed HU, the head alone; may reach beyond the scan.
        scan_grid: what the scan itself covers.
        least_similarity: of what is believable.
    """
    mapping = np.linalg.inv(moving.grid.affine) @ affine @ fixed.grid.affine
    shown = ndimage.affine_transform(
        moving.data, mapping[:3, :3], mapping[:3, 3], fixed.grid.shape, order=1, cval=np.nan
    )
    tissue = fixed.data > WINDOW_HU[0] / 2
    inside = np.isfinite(shown) & tissue  # the air around a head is like the air around a ball
    overlap = float(inside.sum() / max(1, tissue.sum()))
    rotation, stretch = polar(affine[:3, :3])
    scales = np.linalg.eigvalsh(stretch)
    degrees = float(np.rad2deg(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
    similarity = 0.0
    if inside.any() and np.ptp(shown[inside]) > 0:
        similarity = float(np.corrcoef(shown[inside], fixed.data[inside])[0, 1])
    faults = []
    if overlap < _SMALLEST_OVERLAP:
        faults.append(f"the scan shows {overlap:.0%} of the template's head, expected at least {_SMALLEST_OVERLAP:.0%}")
    if similarity < least_similarity:
        faults.append(f"similarity {similarity:.2f} is below {least_similarity}")
    if scales[0] < _SCALE_RANGE[0] or scales[-1] > _SCALE_RANGE[1]:
        faults.append(f"scales {scales.round(2).tolist()} outside {_SCALE_RANGE[0]}–{_SCALE_RANGE[1]}")
    if np.linalg.det(affine[:3, :3]) <= 0 or degrees > _LARGEST_ROTATION_DEG:
        faults.append(f"rotated by {degrees:.0f}°, expected at most {_LARGEST_ROTATION_DEG:.0f}°")
    if not scan_grid.holds(Registration(affine, 0.0, True, "").to_scan(SELLA_MNI_MM)):
        faults.append("the region of interest lies outside the scan")
    return Registration(affine, similarity, not faults, "; ".join(faults))
