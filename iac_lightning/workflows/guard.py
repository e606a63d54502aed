"""What is known of a test set beyond one run: its looks, and what speaks against a fair judgement, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort.leakage import seen_patients, split_salt
from data_modules.cohort.look import RecordedLook
from data_modules.cohort.registry import USE, Entry, Registry, registry_of
from data_modules.cohort.table import Cohort, Series, read_cohort
from data_modules.errors import UserError
from data_modules.files import sha256
from data_modules.prepare.sources import digest
from iac_lightning.runs.looks import looks
from iac_lightning.runs.signatures import complaint, sign

LOOK, SET, SHOWN = "look", "test set", "shown"
"""Events of the registry, beside `registry.USE`."""

_SMALL_MM3 = 5.0
"""Less, a few voxels, is found exactly by honest programs too."""
_PERFECT = 0.995
_MOST = 3
"""Earlier test sets that are compared with this one in words."""


@dataclass(frozen=True)
class Judged:
    """A test set that a model is judged on.

    Attributes:
        table: of the cohort.
        registry: of the test set.
        images: digest of each image, and of its label's file.
    """

    table: Path
    registry: Registry
    images: Mapping[str, str]

    @property
    def id(self) -> str:
        """Of the test set: a digest of its images, wherever they lie and whatever they are called."""
        return digest(sorted(self.images))[:16]


def judged_set(table: Path, everyone: Iterable[Series], scans: Iterable[tuple[Series, Sequence[str]]]) -> Judged:
    """The test set of some series.

    Args:
        table: of the cohort.
        everyone: all series of the table.
        scans: the series with their image digests, labelled; those whose image is not known are left out.
    """
    images = {digests[0]: sha256(s.label)[:16] if s.label else "" for s, digests in scans if digests}
    return Judged(Path(table), registry_of(table, everyone), images)


def register_look(judged: Judged, look: RecordedLook, command: str, model: str, name: str, settings: str) -> bool:
    """Write a look into the registry of its test set.

    Args:
        judged: the test set.
        look: in the model's own record.
        command: that looks.
        model: digest of weights or predictions.
        name: of the model; its digest alone is written.
        settings: hash of those that decide what is seen.

    Returns:
        Whether it could be written anywhere.
    """
    labels = digest(dict(judged.images))[:8]
    facts = {"test_set": judged.id, "images": dict(judged.images)}
    judged.registry.add(f"set-{judged.id}-{labels}-{_salt_id(judged.table)[:8]}", SET, **facts)
    facts = {"test_set": judged.id, "command": command, "model": model, "settings": settings}
    return judged.registry.add(look.id, LOOK, name=digest(name)[:8], **facts)


def register_again(table: Path, look: RecordedLook | None, command: str, summary: Mapping[str, Any]) -> Registry | None:
    """Write down that an evaluation is looked at, with the test set, model and settings that it was made with.

    Args:
        table: of the cohort.
        look: in the model's own record.
        command: that looks.
        summary: of the evaluation.

    Returns:
        The registry; None where the evaluation is an earlier version's, or the cohort is gone.
    """
    known, registry = summary.get("guard"), registry_at(table)
    if not known or registry is None:
        return None
    if look is not None:
        facts = {"test_set": known["test_set"], "model": known["judged"], "settings": known["settings"]}
        registry.add(look.id, LOOK, command=command, name=digest(str(summary.get("run")))[:8], **facts)
    return registry


def registry_at(table: Path) -> Registry | None:
    """The registry of a cohort; None where the cohort is gone while its results are read."""
    try:
        return registry_of(table, read_cohort(table).series)
    except UserError:
        return None


def look_facts(judged: Judged, directory: Path, model: str, settings: str) -> dict[str, Any]:
    """What an evaluation keeps of its test set: how often it was looked at, and what was found (`findings`)."""
    known = {"test_set": judged.id, "n_images": len(judged.images), "judged": model, "settings": settings}
    return known | counts(judged.registry, judged.id) | {"findings": findings(judged.registry, known, directory)}


_FIELDS: dict[str, dict[str, type]] = {
    LOOK: {"test_set": str, "model": str, "settings": str, "name": str},
    SET: {"test_set": str, "images": dict, "time": str},
    USE: {"split": str, "images": list},
    SHOWN: {"sha256": str},
}


def sound_events(registry: Registry, what: str) -> list[Entry]:
    """Events of one kind, oldest first; those that somebody has made something else of are left out."""
    fields = _FIELDS[what].items()
    events = [entry for entry in registry.events().values() if entry.get("what") == what]
    return [entry for entry in events if all(isinstance(entry.get(name), kind) for name, kind in fields)]


def counts(registry: Registry, test_set: str) -> dict[str, int]:
    """Looks at a test set, or at one that shares half of its images or more, by whatever model in whatever folder."""
    sets = {e["test_set"]: set(e["images"]) for e in sound_events(registry, SET)}
    images = sets.get(test_set, set())
    same = {name for name, other in sets.items() if 2 * len(images & other) >= max(len(images), 1)} | {test_set}
    found = [e for e in sound_events(registry, LOOK) if e["test_set"] in same]
    return {
        "n_looks": len(found),
        "n_models": len({e["model"] for e in found}),
        "n_settings": len({(e["model"], e["settings"]) for e in found}),
    }


def findings(registry: Registry, known: Mapping[str, Any], directory: Path) -> list[str]:
    """What speaks against a fair judgement, in sentences; nothing where nothing does.

    Args:
        registry: of the cohort.
        known: `test_set`, and `judged`: digest of weights or predictions.
        directory: of the model, with its own record of looks.
    """
    sets, looked = sound_events(registry, SET), sound_events(registry, LOOK)
    now = next((e for e in reversed(sets) if e["test_set"] == known["test_set"]), None)
    found = [
        f"The registry of the test set was changed by hand ({path.parent.name}/{path.name})."
        for path in registry.changed_files()
    ]
    if now is None:
        return [*found, "The registry of the test set is missing: nobody can tell how often it was looked at."]
    own = [e for e in looked if e["model"] == known["judged"] and e["test_set"] == known["test_set"]]
    lacking = {e["key"] for e in own} - {str(e["id"]) for e in looks(directory)}
    if lacking:
        found.append(
            f"{len(lacking)} of {len(own)} looks with this very model are not in its own record (test_looks.jsonl): "
            "they went to other folders, or the record was deleted."
        )
    if elsewhere := {e["key"] for e in looked if e["test_set"] == known["test_set"]} & registry.missing_beside():
        found.append(
            f"{len(elsewhere)} looks at this test set are missing from the registry beside the cohort table: they were "
            "taken through another copy of the cohort, or the registry was deleted there."
        )
    if len({e["name"] for e in own}) > 1:
        found.append("The same weights or predictions were looked at under other names before.")
    return found + _changes(now, sets, looked) + _other_uses(set(now["images"]), sound_events(registry, USE))


def _changes(now: Entry, sets: Sequence[Entry], looked: Sequence[Entry]) -> list[str]:
    """How the test set differs from those that share images with it and were looked at earlier."""
    found, images = [], now["images"]
    before = {e["test_set"] for e in looked}
    for other in sets:
        shared = images.keys() & other["images"].keys()
        if other is now or other["test_set"] not in before or not shared or other["time"] > now["time"]:
            continue
        day = str(other["time"])[:10]
        gone, new = len(other["images"].keys() - shared), len(images.keys() - shared)
        if gone or new:
            found.append(
                f"The test set is another one than was looked at on {day}: {gone} of its {len(other['images'])} scans "
                f"were taken out, {new} put in."
            )
        elif changed := sum(images[key] != other["images"][key] for key in shared):
            found.append(f"The labels of {changed} of {len(images)} scans were changed since a look on {day}.")
        elif other["key"].rsplit("-", 1)[-1] != now["key"].rsplit("-", 1)[-1]:
            found.append(
                f"split_salt was made anew since a look on {day}: patients cannot be compared with models of "
                "before, scans can."
            )
    return found[-_MOST:]


def _other_uses(images: set[str], used: Iterable[Entry]) -> list[str]:
    """How many images of a test set were used in which other split, by any model that is registered."""
    words = {"dev": "choose checkpoints, calibration or thresholds"}
    uses: dict[str, set[str]] = {}
    for event in used:
        uses.setdefault(event["split"], set()).update(images & set(map(str, event["images"])))
    return [
        f"{len(those)} of {len(images)} scans of the test set were used to {words.get(split, 'train')} (as split "
        f"'{split}', here or in another copy of the cohort): what was chosen there is fitted to this test set."
        for split, those in sorted(uses.items())
        if those
    ]


def implausible(table: pd.DataFrame) -> list[str]:
    """What is too good to be predicted: masks that are the labels."""
    columns = [name for name in ("dice", "plain_dice") if name in table]
    lesions = table[table["has_lesion"].astype(bool) & (table["label_volume_mm3"] > _SMALL_MM3)]
    if lesions.empty:
        return []
    best = lesions[columns].max(axis=1)
    exact = int((best == 1).sum())
    if 2 * exact >= len(lesions):
        return [
            f"{exact} of {len(lesions)} predictions with lesions are their labels, voxel for voxel: labels were handed "
            "in as predictions, or the model was shown them."
        ]
    if best.median() > _PERFECT:
        return [
            f"The median Dice over {len(lesions)} scans with lesions is {best.median():.3f}, nearer to the labels than "
            "two readers are to each other: see whether the predictions were made from them."
        ]
    return []


def changed_tables(directory: Path, split: str, table: Path) -> list[str]:
    """Which files of an evaluation are not as they were signed.

    Args:
        directory: of the model.
        split: that was evaluated.
        table: of the cohort.
    """
    files = [directory / "evaluation" / f"{split}.{kind}" for kind in ("csv", "json")]
    files += [directory / "calibration.json"] if (directory / "calibration.json").is_file() else []
    words = {path: complaint(directory, path, table) for path in files if path.is_file()}
    by_word: dict[str, list[str]] = {}
    for path, word in words.items():
        if word:
            by_word.setdefault(word, []).append(str(path.relative_to(directory)))
    return [f"{', '.join(names)} {word}." for word, names in by_word.items()]


def keep_signed(
    directory: Path, split: str, cohort: Cohort, look: RecordedLook | None, also: Sequence[str] = ()
) -> None:
    """Sign table and summary of an evaluation; of a look, the registry keeps the table's sum as well.

    Args:
        directory: of the model.
        split: that was evaluated.
        cohort: that it was evaluated on.
        look: at the test split.
        also: names of further files of the directory.
    """
    files = [directory / "evaluation" / f"{split}.{kind}" for kind in ("csv", "json")]
    sign(directory, [*files, *(directory / name for name in also)], cohort.path)
    if look is not None:
        registry_of(cohort.path, cohort.series).add(f"{look.id}-{SHOWN}", SHOWN, sha256=sha256(files[0]))


def guard_sentences(directory: Path, summary: Mapping[str, Any], split: str, table: Path) -> list[str]:
    """All that a page says of the test set and of the tables of a model; on other splits of the tables alone.

    Args:
        directory: of the model.
        summary: of its evaluation.
        split: which.
        table: of the cohort.
    """
    known = summary.get("guard")
    sentences = changed_tables(directory, split, table)
    if known is None:
        return sentences
    if (registry := registry_at(table)) is None:
        return [*sentences, *known.get("findings", ())]
    sentences += _not_as_shown(directory, split, registry)
    return list(dict.fromkeys([*sentences, *known.get("findings", ()), *findings(registry, known, directory)]))


def _not_as_shown(directory: Path, split: str, registry: Registry) -> list[str]:
    """Whether the table is the one that the registry saw when the last evaluation of this directory ended."""
    events = {entry["key"]: entry for entry in sound_events(registry, SHOWN)}
    keys = [f"{look['id']}-{SHOWN}" for look in looks(directory)]
    shown = next((events[key] for key in reversed(keys) if key in events), None)
    if shown is None or shown["sha256"] == sha256(directory / "evaluation" / f"{split}.csv"):
        return []
    return [f"evaluation/{split}.csv is not the table that the registry of the test set saw when it was evaluated."]


def set_sentence(registry: Registry, known: Mapping[str, Any]) -> str:
    """How often a test set was looked at, by what an evaluation keeps of it (`look_facts`)."""
    n = counts(registry, known["test_set"])
    return (
        f"The test set ({known['n_images']} scans, {known['test_set']}) has had {n['n_looks']} looks with "
        f"{n['n_models']} models under {n['n_settings']} settings, in whatever folders, as far as this registry knows."
    )


def _salt_id(table: Path) -> str:
    try:
        return str(seen_patients((), split_salt(table))["salt_id"])
    except UserError:
        return "none"
