"""Which series came in, which were left out and why, and which were analysed: by split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from data_modules.cohort.table import SPLITS, Series
from iac_lightning.report.page import Flow, FlowStep, Section
from iac_lightning.report.words import plural

_PATH = re.compile(r"^(?:[A-Za-z]:)?\S*(?:[/\\]\S*|\.(?:nii|gz|nrrd|mha|mhd|dcm))\S*?:\s*")


def flow_section(
    series: Sequence[Series],
    failed: Mapping[str, str],
    prepared: Collection[str] | None,
    analysed: Collection[str],
    split: str,
    warnings: str = "",
) -> Section:
    """A diagram of every split that has series.

    Args:
        series: of the cohort table.
        failed: reason by series, of those that could not be prepared.
        prepared: series that were; None where nothing was, as of masks of another program.
        analysed: series that were evaluated on `split`.
        split: that the page is about.
        warnings: of the scans that were analysed, in a sentence.
    """
    names = [*(name for name in SPLITS if any(s.split == name for s in series)), ""]
    flows = [
        _flow(name, rows, failed, prepared, analysed if name == split else None)
        for name in names
        if (rows := [s for s in series if s.split == name])
    ]
    text = "Every series of the cohort table, what it was used for, and why others were left out."
    return Section(title="Flow of patients and scans", text=f"{text} {warnings}".strip(), flows=flows)


def reason_words(reason: str, item: Series) -> str:
    """Why a series was left out, without paths, ids and what is particular to one scan."""
    text = _PATH.sub("", reason)
    for name in sorted({item.series_id, item.patient_id}, key=len, reverse=True):
        text = text.replace(name, "…")
    text = re.split(r"[;:(]|, expected|\. ", text, maxsplit=1)[0]
    return re.sub(r"\S*[/\\]\S*|\d+(?:\.\d+)?", "…", text).strip() or "not said"


def _flow(
    name: str,
    rows: Sequence[Series],
    failed: Mapping[str, str],
    prepared: Collection[str] | None,
    analysed: Collection[str] | None,
) -> Flow:
    steps = [FlowStep(words=f"In the cohort table: {_size(rows)}")]
    good = list(rows)
    if prepared is not None:
        good = [s for s in rows if s.series_id in prepared]
        reasons = Counter(
            f"rejected: {reason_words(failed[s.series_id], s)}" if s.series_id in failed else "not prepared"
            for s in rows
            if s.series_id not in prepared
        )
        left_out = [f"{n} {why}" for why, n in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))]
        steps.append(FlowStep(words=f"Prepared: {_size(good)}", left_out=left_out))
    labelled = [s for s in good if s.label is not None]
    if name == "pretrain":
        steps.append(FlowStep(words=f"For pre-training, which needs no label: {_size(good)}"))
    elif name:
        without = len(good) - len(labelled)
        left_out = [f"{without} without a label"] if without else []
        steps.append(FlowStep(words=f"With a label: {_size(labelled)}", left_out=left_out))
    if analysed is not None:
        used = [s for s in labelled if s.series_id in analysed]
        lost = len(labelled) - len(used)
        left_out = [f"{lost} not evaluated: not in the tables of the models"] if lost else []
        steps.append(FlowStep(words=f"Analysed on this page: {_size(used)}", left_out=left_out))
    uses = {"finetune": "Open to fine-tuning", "dev": "Open to the choice of checkpoint, calibration and threshold"}
    if name in uses and analysed is None:
        steps.append(FlowStep(words=f"{uses[name]}: {_size(labelled)}"))
    if not name:
        steps.append(FlowStep(words="Without a split: not used"))
    return Flow(split=name or "no split", steps=steps)


def _size(rows: Sequence[Series]) -> str:
    return f"{len(rows)} series of {plural(len({s.patient_id for s in rows}), 'patient')}"
