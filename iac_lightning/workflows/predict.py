"""One scan through a trained model: mask, probability, volume and a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from data_modules.cohort.series import thickness_remark
from data_modules.phantom.mark import is_phantom_image
from data_modules.prepare.named_regions import REGIONS, region_of
from data_modules.prepare.registration import Registration
from data_modules.prepare.roi import find_region_of_interest
from data_modules.scan.fitting import to_file_grid
from data_modules.scan.geometry import Volume, lps_from_ras, place
from data_modules.scan.nifti import write_nifti
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import Scan
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.clinical.domain import compare_with, span
from iac_lightning.evaluation.clinical.reference import interval_words, risk_words, volume_and_risk
from iac_lightning.evaluation.metrics.lesions import components
from iac_lightning.figures.montage import montage_figure
from iac_lightning.inference import predict_scan
from iac_lightning.workflows.output_folder import RESULT_FILE, output_folder, publish
from iac_lightning.workflows.reference import (
    domain_facts,
    domain_words,
    refuse_phantom_model,
    scan_facts,
    thickness_range,
)
from iac_lightning.workflows.trained import CalibratedModel

OUTPUTS = ("mask.nii.gz", "mask_plain.nii.gz", "probability.nii.gz", "overlay.png", RESULT_FILE)
SCAN_FILE = "scan.nii.gz"
"""Written too where the scan is a folder of DICOM: what to lay the others on."""

_BEFORE = "mask_protocol.nii.gz"  # what the result was called once, beside a plain mask.nii.gz

RESULT = {
    "volume_mm3": "volume of `mask.nii.gz`",
    "n_lesions": "its 26-connected components",
    "lesions": "each component, the largest first: `volume_mm3`, `center_lps_mm`, `max_hu`, and the `region` of its "
    "centre: `carotid_siphon_left`, …, `none`, or null where the scan was not registered; of a sheared file, of the "
    "slices moved onto a right-angled grid, as they lie in the patient",
    "volume_interval": "conformal interval of `volume_mm3` by the development scans of the model: `low_mm3`, "
    "`high_mm3` (null: no upper end), the `coverage` promised for scans like those, `n_patients`, `stratum` of slice "
    "thickness, `remarks`; `unknown` says why there is none",
    "risk": "`group` by `volume_mm3`, `set` of the groups that the interval touches, `cutoffs_mm3` (the largest "
    "volumes of none, low and medium) and their `source`; `unknown` says why there is none",
    "interval_holds": "false: the scan is not known to be like those that interval and groups were promised for",
    "volume_plain_mm3": "volume of `mask_plain.nii.gz`",
    "slice_thickness_mm": "of the region of interest; decides the threshold",
    "slice_thickness_range_mm": "thinnest and thickest slice of the whole scan",
    "spacing_mm": "voxel size of the scan along its axes; of a sheared file, of the right-angled grid",
    "roi_center_lps_mm": "centre of the region of interest, in DICOM's coordinates",
    "roi_size_mm": "size of the region of interest",
    "threshold": "of the calibrated probability, for `mask.nii.gz`",
    "rule": "that its voxels meet: `protocol`, the annotation protocol, or `none`",
    "least_lesion_mm3": "smaller components were dropped from it",
    "operating_point": "all that decides `mask.nii.gz`: what it was chosen for (`aim`), `rule`, `least_lesion_mm3`, "
    "`threshold`, and by `thickness` of slices where that differs",
    "plain_threshold": "the threshold of `mask_plain.nii.gz`",
    "calibration": "`temperature` and `bias` that were applied, and the `n_series` and `n_patients` they come from",
    "registration": "name of the `template`, `similarity` to it and `template_to_scan_ras`; null where the scan was "
    "taken to be cut around the region",
    "training_domain": "what the model has learnt from: `learnt_from` (`phantoms`, `patients` or `both`), counts of "
    "scans and patients, `ranges` of slice thickness, spacing and HU, `manufacturers` and `kernels` where they are "
    "known; null where it is not known",
    "is_phantom": "whether the scan is marked as a simulated head",
    "compared": "the scan beside the training scans: what is `out_of_range`, and the `distance` and `percentile` of "
    "its region among theirs; null where they are not known",
    "run": "name of the run that the model comes from",
    "checkpoint_sha256": "first 16 hexadecimal digits: which weights",
    "warnings": "what a reader of the result should know about this scan",
    "note": "that this is research software",
    "files": "SHA-256 of each file that was written with it; only these are ever replaced",
}
"""Keys of `result.json`, and what they hold."""


@dataclass(frozen=True)
class Segmentation:
    """What one scan was segmented to.

    Attributes:
        scan: as it was read.
        region: its region of interest, on the scan's own voxels.
        probability: calibrated, on the grid of the region, as the masks are.
        mask: the result, at the operating point: after the annotation protocol (≥ 130 HU, no single voxels).
        plain: what a threshold alone gives.
        result: what `result.json` holds.
        alarm: what stands in colour on the overlay: that the scan is not what the model has learnt from.
    """

    scan: Scan
    region: Scan
    probability: Volume
    mask: Volume
    plain: Volume
    result: dict[str, Any]
    alarm: tuple[str, ...] = ()


def predict(
    source: Path,
    out: Path,
    model: CalibratedModel,
    template: Path | None = None,
    series: str | None = None,
    slice_thickness_mm: float | None = None,
    allow_phantom_model: bool = False,
) -> dict[str, Any]:
    """Segment the intracranial arterial calcification of one scan, into files.

    Writes `mask.nii.gz` (after the annotation protocol: ≥ 130 HU, no single voxels), `probability.nii.gz` (calibrated),
    `mask_plain.nii.gz` (of a threshold alone), `result.json` and `overlay.png` into `out`. All three lie on the voxels
    of the input file, also where its slices slide against each other (each slice is then moved back by whole pixels: no
    voxel is lost, none is blended); for a folder of DICOM, on those of `scan.nii.gz`, which is written beside them.

    Args:
        source: NIfTI, NRRD or MetaImage file, or folder of one DICOM series.
        out: folder, made if needed. Only what an earlier call wrote there is replaced.
        model: of a run or a bundle.
        template: CT template to find the region of interest of whole heads; without it the run's, else the built-in
            head model, serves.
        series: which series, where a DICOM folder holds several.
        slice_thickness_mm: where the file does not say it (NIfTI without a JSON file beside it). A file's own counts
            all the same, as in every evaluation; where the two differ by more than 10 % a warning says so.
        allow_phantom_model: segment also a scan that is no phantom by a model that has learnt from phantoms alone.

    Returns:
        What `result.json` holds.

    Raises:
        UserError: when the scan cannot be read or registered, or is no phantom and the model has learnt from phantoms
            alone (`out` holds no mask then, not even one of an earlier call); when `out` cannot be written or holds
            files of these names that no earlier call wrote (nothing is touched then).
    """
    is_folder = source.is_dir()
    names, optional = ((*OUTPUTS, SCAN_FILE), (_BEFORE,)) if is_folder else (OUTPUTS, (SCAN_FILE, _BEFORE))
    with output_folder(out, names, optional, source) as staging:
        segmentation = segment(source, model, template, series, slice_thickness_mm, allow_phantom_model)
        scan, result = segmentation.scan, segmentation.result
        maps = {"probability": (segmentation.probability, 0.0), "mask_plain": (segmentation.plain, False)}
        like = None if scan.file_grid is None else source
        for name, (volume, outside) in (maps | {"mask": (segmentation.mask, False)}).items():
            write_nifti(to_file_grid(place(volume, scan.grid, outside), scan), staging / f"{name}.nii.gz", like)
        if is_folder:
            write_nifti(scan.volume, staging / SCAN_FILE)
        region, alarm = segmentation.region, segmentation.alarm
        title = overlay_title(result, model)
        figure = montage_figure(
            region.volume, segmentation.mask, segmentation.probability, title, alarm, region.slice_axis
        )
        figure.savefig(staging / "overlay.png", dpi=110)
        return publish(staging, result)


def segment(
    source: Path,
    model: CalibratedModel,
    template: Path | None = None,
    series: str | None = None,
    slice_thickness_mm: float | None = None,
    allow_phantom_model: bool = False,
) -> Segmentation:
    """Segment one scan and write nothing; arguments and errors as `predict`."""
    scan = read_scan(source, series=series, slice_thickness_mm=slice_thickness_mm)
    foreign = refuse_phantom_model(model, source, allow_phantom_model)
    region, registration = find_region(scan, model.config, template)
    remark = thickness_remark(slice_thickness_mm, region.slice_thickness_mm, "the option slice_thickness_mm")
    calibration = model.calibration
    raw = predict_scan(model.network, scan, region, model.config, model.device)
    probability = calibration.apply(raw, region.slice_thickness_mm)
    mask, plain = calibration.masks(probability, region.volume, region.slice_thickness_mm)
    domain = model.reference.domain
    facts = scan_facts(scan, region, None if registration is None else registration.similarity)
    compared = None if domain is None else compare_with(domain, facts)
    alarm = [*([foreign] if foreign else []), *out_of_range(compared)]
    lesions = measure_lesions(mask, region, registration)
    own = calibration.scaling.of(region.slice_thickness_mm)
    result = {
        **lesions,
        **volume_and_risk(model.reference.development, lesions["volume_mm3"], region.slice_thickness_mm),
        "interval_holds": not alarm,
        "volume_plain_mm3": float(plain.data.sum() * plain.grid.voxel_volume_mm3),
        "slice_thickness_mm": region.slice_thickness_mm,
        "slice_thickness_range_mm": list(thickness_range(scan)),
        "spacing_mm": list(scan.grid.spacing_mm),
        "roi_center_lps_mm": list(lps_from_ras(region.grid.center_ras_mm)),
        "roi_size_mm": list(region.grid.size_mm),
        "threshold": calibration.point.thresholds.at(region.slice_thickness_mm),
        "rule": calibration.point.rule,
        "least_lesion_mm3": calibration.point.least_lesion_mm3,
        "operating_point": calibration.point.to_dict(),
        "plain_threshold": calibration.plain.at(region.slice_thickness_mm),
        "calibration": {
            "temperature": own.temperature,
            "bias": own.bias,
            **calibration.facts(("n_series", "n_patients")),
        },
        "registration": registration_facts(registration),
        "training_domain": domain_facts(domain),
        "is_phantom": is_phantom_image(source),
        "compared": compared,
        "run": model.config.name,
        "checkpoint_sha256": model.checkpoint_sha256,
        "warnings": [*region.warnings, *([remark] if remark else []), *alarm],
        "note": "Research software: not a medical device.",
    }
    return Segmentation(scan, region, probability, mask, plain, result, tuple(alarm))


def out_of_range(compared: dict[str, Any] | None) -> list[str]:
    """What to tell of a scan that is unlike those that the model has learnt from."""
    found = [entry["words"] for entry in (compared or {}).get("out_of_range", [])]
    return [f"this scan is not like those that the model has learnt from: {'; '.join(found)}"] if found else []


def result_words(result: dict[str, Any]) -> str:
    """Interval and risk group, and whether they were promised for such a scan."""
    interval, risk = result["volume_interval"], result["risk"]
    if "unknown" in interval:
        return str(interval["unknown"])
    holds = "" if result["interval_holds"] else ", promised for other scans than this one"
    return f"{interval_words(interval)}; {risk_words(risk)}{holds}"


def overlay_title(result: dict[str, Any], model: CalibratedModel) -> list[str]:
    """What was found, in which slices, by what kind of model."""
    thinnest, thickest = result["slice_thickness_range_mm"]
    own = f", {result['slice_thickness_mm']:g} mm in the region" if thinnest != thickest else ""
    return [
        f"{result['volume_mm3']:.0f} mm³ in {result['n_lesions']} lesions",
        result_words(result),
        f"slices of {span(thinnest, thickest)} mm{own}; model {model.config.name}, learnt from "
        f"{domain_words(model.reference.domain)}",
    ]


def find_region(scan: Scan, config: ExperimentConfig, template: Path | None) -> tuple[Scan, Registration | None]:
    """The region of interest on the scan's native grid, and how it was found.

    Raises:
        UserError: when the template cannot be read.
        RegistrationFailed: when the scan does not fit the template, the built-in one where none is given.
    """
    grid = config.data.grid
    if template is not None:
        grid = replace(grid, template=str(template))
    return find_region_of_interest(scan, grid)


def measure_lesions(mask: Volume, region: Scan, registration: Registration | None = None) -> dict[str, Any]:
    """Volume and lesions of a mask: 26-connected components with volume, centre, peak HU and named region."""
    labels, count = components(mask.data)
    centers = ndimage.center_of_mass(mask.data, labels, range(1, count + 1)) if count else []
    lesions = [
        {
            "volume_mm3": float((labels == k + 1).sum() * mask.grid.voxel_volume_mm3),
            "center_lps_mm": list(lps_from_ras(mask.grid.to_ras_mm(center))),
            "max_hu": int(region.hu[labels == k + 1].max()),
            "region": _region_name(mask.grid.to_ras_mm(center), registration),
        }
        for k, center in enumerate(centers)
    ]
    lesions.sort(key=lambda lesion: -float(lesion["volume_mm3"]))  # type: ignore[arg-type]
    return {
        "volume_mm3": float(mask.data.sum() * mask.grid.voxel_volume_mm3),
        "n_lesions": count,
        "lesions": lesions,
    }


def _region_name(ras_mm: Any, registration: Registration | None) -> str | None:
    """The named region of a point, "none" beside all of them; None where no registration tells."""
    if registration is None:
        return None
    return REGIONS.get(int(region_of(registration.affine, ras_mm)), "none")


def registration_facts(registration: Registration | None) -> dict[str, Any] | None:
    """How the region was found, for the JSON."""
    if registration is None:
        return None
    return {
        "template": registration.template,
        "similarity": registration.similarity,
        "template_to_scan_ras": np.asarray(registration.affine).tolist(),
    }
