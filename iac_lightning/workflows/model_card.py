"""The model card of an exported model, from what its run directory knows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_modules.cohort.folds import cohort_of
from data_modules.cohort.leakage import SALT_FILE, hash_patients, seen_patients
from data_modules.cohort.look import GUARDED
from data_modules.cohort.table import SPLITS
from data_modules.config import DataConfig
from data_modules.errors import UserError
from data_modules.prepare.store import open_store
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import config_hash
from iac_lightning.evaluation.calibration.record import Calibration, describe_point, describe_scaling
from iac_lightning.evaluation.tables.summary import read_summary
from iac_lightning.models.build import count_parameters
from iac_lightning.modules.foreign import FILE as FOREIGN
from iac_lightning.modules.foreign import licence_words
from iac_lightning.report.words import estimate, interval, sentence
from iac_lightning.runs.directory import Run, git_words
from iac_lightning.runs.looks import FILE, looks
from iac_lightning.workflows.guard import guard_sentences, registry_at, set_sentence
from iac_lightning.workflows.reference import domain_section
from iac_lightning.workflows.reports.evaluated import model_label
from iac_lightning.workflows.trained import CalibratedModel

METRICS = {
    "dice": "Dice, scans with lesions",
    "nsd_1mm": "surface Dice at 1 mm, scans with lesions",
    "sensitivity": "sensitivity of voxels, scans with lesions",
    "ppv": "positive predictive value of voxels",
    "lesion_sensitivity": "lesion-wise sensitivity",
    "lesion_f1": "lesion-wise F1",
    "volume_icc": "volume, ICC(2,1)",
}
CALIBRATION = {
    "ece": "expected calibration error",
    "adaptive_ece": "adaptive ECE",
    "brier": "Brier score",
    "nll": "negative log-likelihood",
}


def model_card(run: Run, model: CalibratedModel) -> str:
    """Markdown: what the model is for, what it learnt from, how good it was found to be, how it is used.

    Values are those that `iac evaluate` left for these very weights; a split that was not evaluated is said to be so.
    """
    sections = {
        f"Model card: {model.config.name}": about(model),
        "What it is for": PURPOSE,
        "What it learnt from": training_data(run, model),
        "Training domain": domain_section(model.reference.domain),
        "Whom it saw, and what it was tuned on": whom_it_saw(run, model),
        "How good it was found to be": metrics(run, model),
        "Calibration": calibration(model.calibration),
        "How to use it": USE + (FOREIGN_LICENCE if foreign_encoder(run) else LICENCE),
        "Made with": versions(run, model),
    }
    return "\n".join(
        f"{'#' if k == 0 else '##'} {title}\n\n{text}\n" for k, (title, text) in enumerate(sections.items())
    )


PURPOSE = """\
Research on intracranial arterial calcification (IAC): to segment and measure it on non-contrast CT of adult heads, in
a region of interest around the cavernous sinus, on each scan's own voxels.

It is not a medical device. It is not for diagnosis or treatment, and not for contrast-enhanced CT, calcification
elsewhere, metal in the region of interest, or scanners, kernels and slice thicknesses far from those below."""

USE = """\
```bash
iac predict scan.nii.gz out --bundle FOLDER --template template.nii.gz --slice-thickness-mm 5
```

with iac-lightning; whole heads need a CT template in HU to find the region with. `manifest.json` holds the SHA-256 of
each file, and a bundle that does not match it is refused. The weights are `safetensors`: nothing is unpickled.
`trained_on.json` names nobody: salted hashes, by which evaluation on a patient of the training is refused.
"""
LICENCE = """
Licence: Apache-2.0 (code and weights); the scans it learnt from are not part of it."""
FOREIGN_LICENCE = """
Licence: Apache-2.0 (code). The weights started from those of another project, and its licence, above, holds for them;
the scans that they learnt from are not part of it."""


def foreign_encoder(run: Run) -> dict[str, Any] | None:
    """What is known of the encoder of another project that a run started from; None where it did not."""
    path = run.directory / FOREIGN
    record: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return record


def about(model: CalibratedModel) -> str:
    """Network, grid, window."""
    config = model.config
    grid, data = config.data.grid, config.data
    restricted = config.loss.restrict_hu
    rows = [
        f"{kind(model)}; {count_parameters(model.network):,} parameters.",
        f"Common grid {_by(grid.spacing_mm)} mm, region {_by(grid.roi_mm)} mm, windows of {_by(data.sampling.crop)} "
        f"voxels, HU from {data.window_hu[0]:g} to {data.window_hu[1]:g}.",
        f"Only voxels of at least {restricted:g} HU can be predicted." if restricted is not None else "",
        f"Checkpoint `{model.checkpoint_sha256}` (first 16 digits of its SHA-256)"
        + ("; weights are the exponential moving average." if config.optimizer.ema_decay > 0 else ".")
        if not model.members
        else f"Checkpoints, under `{model.checkpoint_sha256}` together: "
        + ", ".join(f"`{member.checkpoint_sha256}`" for member in model.members)
        + " (first 16 digits of the SHA-256 of each).",
    ]
    return "\n".join(row for row in rows if row)


def kind(model: CalibratedModel) -> str:
    """What kind of network, or of networks, it is."""
    if not model.members:
        return model_label(model.config)
    labels = [model_label(member.run.config) for member in model.members]
    counted = ", ".join(f"{labels.count(label)} × {label}" for label in dict.fromkeys(labels))
    return f"Ensemble of {len(labels)} networks ({counted}), the mean of their probabilities"


def training_data(run: Run, model: CalibratedModel) -> str:
    """Fingerprint, patients by stage, splits, and the range of slice thickness of the series that it learnt from."""
    fingerprint = f"Data fingerprint `{run.provenance.get('data_fingerprint', 'unknown')}`"
    if model.members:
        rows = [f"- {m.run.config.name}: {learnt_from(m.trained_on)}; {split_by(m.run.config)}" for m in model.members]
        lines = [
            f"{fingerprint}.",
            "",
            *rows,
            "",
            "A development patient was predicted, for calibration too, by the members alone that had not seen it; "
            "nobody of test was seen by any.",
        ]
    else:
        lines = [
            f"{fingerprint}; {split_by(run.config)}.",
            f"Learnt from {learnt_from(model.trained_on)}; nobody of development and test.",
        ]
    if (foreign := foreign_encoder(run)) is not None:
        lines.append(licence_words(foreign))
    return "\n".join([*lines, *cohort_facts(run.config.data, model.trained_on)])


def whom_it_saw(run: Run, model: CalibratedModel) -> str:
    """Counts of patients and scans by stage, of those it was tuned on, and of its test set's looks; names nobody."""
    rows = ["| stage | patients | scans known by their voxels |", "|---|---|---|"]
    for stage, record in zip(stages(model.trained_on), model.trained_on, strict=True):
        rows.append(f"| {stage}: learnt from | {len(record['hashes'])} | {scans(record)} |")
        if tuned := record.get("tuned"):
            rows.append(f"| {stage}: checkpoint chosen by | {len(tuned['hashes'])} | {scans(tuned)} |")
    record = model.calibration.to_dict()
    rows.append(f"| calibration and thresholds: fitted to | {record.get('n_patients', 'unknown')} | – |")
    digest = hashlib.sha256(json.dumps(model.trained_on, sort_keys=True).encode()).hexdigest()
    lines = [
        "\n".join(rows),
        f"Each of them is in `trained_on.json` as a salted hash (SHA-256 of the whole list: `{digest}`), and each scan "
        "by a digest of its voxels, so that evaluation on one of them is refused, whatever id or file it has by then.",
    ]
    path = run.directory / "evaluation" / f"{GUARDED}.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if summary.get("checkpoint_sha256") == model.checkpoint_sha256:
        table = Path(run.config.data.cohort)
        if (known := summary.get("guard")) and (registry := registry_at(table)):
            lines.append(set_sentence(registry, known))
        found = guard_sentences(run.directory, summary, GUARDED, table)
        lines += ["\n".join(f"- {sentence}" for sentence in found)] if found else []
    return "\n\n".join(lines)


def scans(record: Mapping[str, Any]) -> str:
    """How many scans a record knows by their voxels; earlier versions and ensembles do not say."""
    return str(record.get("n_scans", "–"))


def stages(trained_on: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each record of whom a model saw is of."""
    known = ["fine-tuning"] if len(trained_on) == 1 else ["pre-training", "fine-tuning"]
    return [*known, *(f"training {k + 1}" for k in range(2, len(trained_on)))][: len(trained_on)]


def learnt_from(trained_on: Sequence[Mapping[str, Any]]) -> str:
    """How many patients each stage has seen."""
    named = zip(stages(trained_on)[:2], trained_on, strict=False)
    return ", ".join(f"{len(record['hashes'])} patients in {stage}" for stage, record in named)


def split_by(config: ExperimentConfig) -> str:
    """Seed, and the fold that was held out where one was."""
    return f"seed {config.seed}" + ("" if config.data.fold is None else f", fold {config.data.fold} held out")


def cohort_facts(config: DataConfig, trained_on: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the cohort says of the patients that were learnt from, and of the splits; a sentence without its table."""
    path = Path(config.cohort)
    missing = ["The cohort table was not at hand at export: slice thickness and splits are not stated."]
    try:
        salt = path.with_name(SALT_FILE).read_text(encoding="ascii").strip()
        cohort = cohort_of(config)
    except (OSError, UserError, UnicodeDecodeError):
        return missing
    salt_id = seen_patients((), salt)["salt_id"]
    known = {digest for record in trained_on if record["salt_id"] == salt_id for digest in record["hashes"]}
    patients = sorted({s.patient_id for s in cohort.series})
    learnt = {p for p, digest in zip(patients, hash_patients(patients, salt), strict=True) if digest in known}
    series = [s for s in cohort.series if s.patient_id in learnt]
    if not series:
        return missing
    rows = [
        f"Their {len(series)} series: {thickness_range(config, [s.series_id for s in series])}"
        f"{len({s.kernel for s in series})} convolution kernels, {len({s.manufacturer for s in series})} manufacturers",
        "",
        "| split | patients | series |",
        "|---|---|---|",
    ]
    return rows + [f"| {name} | {len(cohort.patients(name))} | {len(cohort.split(name))} |" for name in SPLITS]


def thickness_range(config: DataConfig, series_ids: Sequence[str]) -> str:
    """Such as "slices of 1 to 5 mm, ", of those of the series that are prepared as for this run; else nothing."""
    try:
        prepared = open_store(config, [split for split in SPLITS if split != GUARDED]).series
    except UserError:
        return ""
    thickness = [p.slice_thickness_mm for p in prepared if p.series.series_id in set(series_ids)]
    return f"slices of {min(thickness):g} to {max(thickness):g} mm, " if thickness else ""


def metrics(run: Run, model: CalibratedModel) -> str:
    """Means with 95 % intervals over patients, split by split, and how often the test split was looked at."""
    parts = []
    for split in ("test", "dev"):
        path = run.directory / "evaluation" / f"{split}.json"
        summary = read_summary(path) if path.exists() else {}
        if summary.get("checkpoint_sha256") != model.checkpoint_sha256:
            parts.append(f"The {split} split was not evaluated with these weights.")
            continue
        plain = summary.get("plain")
        rows = [
            f"| {split}: {summary['n_series']} scans of {summary['n_patients']} patients, {summary['n_with_lesion']} "
            "with lesions | at the operating point | threshold alone |",
            "|---|---|---|",
        ]
        rows += [
            f"| {words} | {estimate(summary[key])} | {estimate(plain[key]) if plain else '–'} |"
            for key, words in METRICS.items()
            if key in summary
        ]
        parts.append("\n".join(rows))
        if split == "test" and (looks := test_looks(run.directory)) is not None:
            parts.append(f"The test split had been looked at {looks} times with this run when it was exported.")
    intervals = "Means [95 % interval over patients], on each scan's own voxels. " + (
        "The development split chose the thresholds, so its figures flatter."
    )
    return "\n\n".join([intervals, *parts])


def test_looks(directory: Path) -> int | None:
    """How many looks stand in a run's record of evaluations on the test split; None where none is kept."""
    folders = [folder for folder in (directory, directory / "evaluation") if (folder / FILE).exists()]
    return len(looks(folders[0])) if folders else None


def calibration(calibrated: Calibration) -> str:
    """Errors before and after, and how masks are cut."""
    record = calibrated.to_dict()
    rows = [
        f"{sentence(describe_scaling(calibrated.scaling))} Chosen on {record['n_series']} "
        f"development scans of {record['n_patients']} patients. Operating point ({calibrated.point.aim}): "
        f"{describe_point(calibrated.point)}. A threshold alone: {record['plain_threshold']:g}.",
    ]
    known = [key for key in CALIBRATION if f"{key}_before" in record]
    after = record.get("after", "of the fit")
    if known:
        rows += ["", f"| voxels of the development split | before | after ({after}) |", "|---|---|---|"]
    for key in known:
        cells = []
        for when in ("before", "after"):
            low, high = record.get(f"{key}_{when}_ci95") or (None, None)
            cells.append(interval(record[f"{key}_{when}"], low, high, digits=4))
        rows.append(f"| {CALIBRATION[key]} | {' | '.join(cells)} |")
    return "\n".join([*rows, *(f"\nRemark: {warning}" for warning in record.get("warnings", []))])


def versions(run: Run, model: CalibratedModel) -> str:
    """Code and packages of the training."""
    provenance = run.provenance
    git = [provenance, *provenance.get("continued", [])][-1].get("git") or {}
    packages = ", ".join(f"{k} {v}" for k, v in (provenance.get("packages") or {}).items() if v)
    lines = [
        f"Code: commit {git_words(git)}." if git.get("commit") else "",
        f"Trained with Python {provenance['python']}, {packages}." if packages else "",
        f"Settings: hash `{config_hash(run.config)}`; checkpoint `{model.checkpoint_sha256}`.",
    ]
    return "\n".join(line for line in lines if line)


def _by(values: Sequence[float]) -> str:
    return " × ".join(f"{v:g}" for v in values)
