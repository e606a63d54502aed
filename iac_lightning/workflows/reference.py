"""What a run keeps beside its model for the sake of one scan (`training_domain.json`): made with the calibration.

Bundles carry it in `model.json`. Of a run that was calibrated before this was kept, what it learnt from is looked up
while its cohort is at hand; the volumes of its development scans are known once it is calibrated or evaluated again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.cohort.folds import cohort_of
from data_modules.cohort.leakage import SALT_FILE, is_seen, split_salt
from data_modules.cohort.look import GUARDED
from data_modules.cohort.table import SPLITS
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.phantom.mark import is_phantom_image, is_phantom_series
from data_modules.prepare.facts import read_meta
from data_modules.prepare.store import PreparedSeries, open_store
from data_modules.processes import Helpers
from data_modules.scan.scan import Scan
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.calibration.record import DECIDING, Calibration
from iac_lightning.evaluation.clinical.domain import Domain, ScanFacts, region_features, span, training_domain
from iac_lightning.evaluation.clinical.reference import Development, Reference
from iac_lightning.evaluation.statistics.plain import plain
from iac_lightning.runs.directory import Run
from iac_lightning.runs.signatures import sign, was_changed
from iac_lightning.workflows.one_series import development_volumes
from iac_lightning.workflows.trained import CalibratedModel, TrainedModel, digest, on_host, series_work

FILE = "training_domain.json"
MOST_MEASURED = 500
"""Training scans whose ranges and features are taken, evenly over the table: more would tell hardly more."""


def keep_reference(
    model: TrainedModel, series: Sequence[PreparedSeries], calibration: Calibration, helpers: Helpers
) -> None:
    """Write `training_domain.json`, unless it is there for these weights, calibration and settings.

    Args:
        model: the network.
        series: its development scans, which are all predicted already.
        calibration: of the network.
        helpers: for the host's part of each scan.
    """
    run, settings = model.run, model.run.config.evaluation
    deciding = [settings.coverage, settings.thickness_edges_mm, settings.risk_cutoffs_mm3]
    key = digest(plain([calibration.facts(DECIDING), calibration.record.get("depends_on"), deciding]))
    if _read(run).get("depends_on") == key and _read(run).get("checkpoint_sha256") == model.checkpoint_sha256:
        return
    works = [series_work(model, item) for item in series]
    volumes = list(on_host(model, works, partial(development_volumes, calibration=calibration), helpers))
    patients = sorted({item.series.patient_id for item in series})
    development = Development(
        patient=tuple(patients.index(item.series.patient_id) for item in series),
        slice_thickness_mm=tuple(item.slice_thickness_mm for item in series),
        volume_mm3=tuple(predicted for predicted, _ in volumes),
        label_volume_mm3=tuple(labelled for _, labelled in volumes),
        coverage=settings.coverage,
        thickness_edges_mm=settings.thickness_edges_mm,
        risk_cutoffs_mm3=settings.risk_cutoffs_mm3,
    )
    reference = Reference(domain=find_domain(run.config, model.trained_on), development=development)
    record = {"checkpoint_sha256": model.checkpoint_sha256, "depends_on": key, **reference.to_dict()}
    write_json_atomic(run.directory / FILE, record)
    sign(run.directory, [run.directory / FILE], run.config.data.cohort)


def reference_of(run: Run, checkpoint_sha256: str, trained_on: list[dict[str, Any]]) -> Reference:
    """What is kept beside these weights of a run; without it, what they learnt from by the cohort as it is now."""
    record = _read(run)
    if record.get("checkpoint_sha256") == checkpoint_sha256:
        try:
            return Reference.from_dict(record)
        except ValueError:
            pass  # damaged: as if there were none
    return Reference(domain=find_domain(run.config, trained_on))


def _read(run: Run) -> dict[str, Any]:
    """What the file holds; nothing where there is none, or it is damaged or was changed by hand."""
    if was_changed(run.directory, run.directory / FILE):
        return {}
    try:
        record = json.loads((run.directory / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def find_domain(config: ExperimentConfig, trained_on: Sequence[dict[str, Any]]) -> Domain | None:
    """What a model has learnt from, by the cohort table and what is prepared of it; None where they are not at hand.

    Args:
        config: of the run.
        trained_on: whom the model has seen, as salted hashes.
    """
    table = Path(config.data.cohort)
    if not table.with_name(SALT_FILE).is_file():
        return None
    try:
        salt = split_salt(table)
        series = [s for s in cohort_of(config.data).series if s.split != GUARDED]
        prepared = open_store(config.data, [split for split in SPLITS if split != GUARDED]).series
    except UserError:
        return None
    seen = {p for p in {s.patient_id for s in series} if any(is_seen(p, record, salt) for record in trained_on)}
    learnt = [s for s in series if s.patient_id in seen]
    if not learnt:
        return None
    phantoms = {s.series_id for s in learnt if is_phantom_series(s)}
    labelled = [s.series_id for s in learnt if s.split != "pretrain"]
    mine = [item for item in prepared if item.series.patient_id in seen]
    if not mine:
        return None
    measured = mine[:: -(-len(mine) // MOST_MEASURED)]
    everyone = {digest for record in trained_on for digest in record["hashes"]}
    return training_domain(
        [series_facts(item) for item in measured],
        [item.series.patient_id for item in measured],
        n_patients=len(seen),
        n_series=len(learnt),
        n_phantoms=len(phantoms),
        n_labelled=len(labelled),
        n_labelled_phantoms=len(phantoms.intersection(labelled)),
        n_patients_unknown=max(0, len(everyone) - len(seen)),
        window_hu=tuple(config.data.window_hu),
    )


def series_facts(item: PreparedSeries) -> ScanFacts:
    """What a prepared training scan is compared by; its region is read."""
    similarity = (read_meta(item.directory) or {}).get("registration_similarity")
    return ScanFacts(
        features=region_features(np.asarray(item.native_hu())),
        slice_thickness_mm=(item.slice_thickness_mm, item.slice_thickness_mm),
        spacing_mm=_spacing(item.native_grid.spacing_mm, item.slice_axis),
        similarity=similarity,
        manufacturer=item.series.manufacturer,
        kernel=item.series.kernel,
    )


def scan_facts(scan: Scan, region: Scan, similarity: float | None) -> ScanFacts:
    """What a scan that is predicted is compared by."""
    return ScanFacts(
        features=region_features(region.hu),
        slice_thickness_mm=thickness_range(region),
        spacing_mm=_spacing(region.grid.spacing_mm, region.slice_axis),
        similarity=similarity,
        manufacturer=scan.manufacturer,
        kernel=scan.kernel,
    )


def thickness_range(scan: Scan) -> tuple[float, float]:
    """Thinnest and thickest slice, mm."""
    each = scan.slice_thicknesses_mm or (scan.slice_thickness_mm,)
    return min(each), max(each)


def _spacing(spacing_mm: Sequence[float], slice_axis: int) -> tuple[float, float]:
    """Largest in plane, and across slices."""
    in_plane = [step for axis, step in enumerate(spacing_mm) if axis != slice_axis]
    return max(in_plane), spacing_mm[slice_axis]


def refuse_phantom_model(model: CalibratedModel, source: Path, allowed: bool) -> str | None:
    """Refuse a scan that is no phantom for a model that learnt from phantoms alone, unless that is allowed.

    Returns:
        What a reader of the result should know; None where there is nothing.

    Raises:
        UserError: naming the option.
    """
    domain = model.reference.domain
    if domain is None:
        return "what this model has learnt from is not known: whether this scan is like that cannot be told"
    if not domain.only_phantoms or is_phantom_image(source):
        return None
    what = (
        f"{model.config.name} has learnt to segment from simulated heads alone (phantoms, {domain.n_labelled} scans), "
        "and this scan is none"
    )
    if not allowed:
        raise UserError(
            f"{source}: {what}. What it marks on a patient is no measurement of calcium. Use a model that has learnt "
            "from patients; or, to see what this one does, --allow-phantom-model, and the result says so."
        )
    return f"{what}: what it marks is no measurement of a patient's calcium"


def domain_words(domain: Domain | None) -> str:
    """Such as "69 simulated heads (phantoms; 123 scans)"."""
    if domain is None:
        return "scans that are not known"
    scans, unknown = f"{domain.n_series} scans", ""
    if domain.n_patients_unknown:
        unknown = f", and {domain.n_patients_unknown} patients of whom nothing is known"
    if domain.learnt_from == "phantoms":
        return f"{domain.n_patients} simulated heads (phantoms; {scans}){unknown}"
    some = "" if domain.learnt_from == "patients" else f", {domain.n_phantoms} of them of simulated heads"
    return f"{domain.n_patients} patients ({scans}{some}){unknown}"


def domain_facts(domain: Domain | None) -> dict[str, Any] | None:
    """What `result.json` says of it: counts, ranges and names, without what only comparisons need."""
    if domain is None:
        return None
    known = {k: v for k, v in asdict(domain).items() if k not in ("center", "scale", "distances")}
    known["ranges"] = {name: pair for name, pair in domain.ranges.items() if not name.startswith("share_")}
    return {"learnt_from": domain.learnt_from, **plain(known)}


def domain_section(domain: Domain | None) -> str:
    """Markdown for the model card."""
    if domain is None:
        return "What the model has learnt from is not known: its cohort was not at hand when it was calibrated."
    rows = [f"Learnt from {domain_words(domain)}."]
    if domain.only_phantoms:
        rows.append(
            "\n**Its labels are of simulated heads alone.** It is not to be used on patients: `iac predict` refuses "
            "their scans without `--allow-phantom-model`."
        )
    lines = {
        "slice thickness, mm": "slice_thickness_mm",
        "pixels, mm": "in_plane_mm",
        "distance of slices, mm": "slice_spacing_mm",
        "median of the region, HU": "hu_p50",
        "99 % quantile of the region, HU": "hu_p99",
        "noise within soft tissue, HU": "noise_hu",
        "similarity to the template": "registration_similarity",
    }
    rows += ["", f"| {domain.n_measured} training scans that were measured | range |", "|---|---|"]
    rows.append(f"| window of the network, HU | {span(*domain.window_hu)} |")
    rows += [f"| {words} | {span(*domain.ranges[name])} |" for words, name in lines.items() if name in domain.ranges]
    for words, names in (("manufacturers", domain.manufacturers), ("convolution kernels", domain.kernels)):
        rows.append(f"| {words} | {', '.join(names).replace('|', '/') or 'not known'} |")
    rows.append(
        "\nA scan outside of them, or farther from them than any of them, is said to be so when it is predicted."
    )
    return "\n".join(rows)
