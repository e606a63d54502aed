"""Which images the prepared series are made of: each is one patient's, whatever its file is called."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from data_modules.cohort.series import read_series
from data_modules.cohort.table import WHAT, Series
from data_modules.csv_files import raise_problems
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.prepare.facts import add_facts, read_meta
from data_modules.prepare.sources import source_state
from data_modules.prepare.store import PreparedSeries, PreparedStore, image_facts
from data_modules.processes import mapped
from data_modules.scan.content import ALIKE, image_digests, resemblance, thumbnail

KNOWN_FILE = "images.json"
"""In a registry: digests of images by the state of their files."""

_log = logging.getLogger(__name__)
_LISTED = 5


def with_images(store: PreparedStore, workers: int) -> PreparedStore:
    """The store, with the digests of images that were prepared before digests were kept; their scans are read once.

    Where they cannot be kept, they are left out: nobody waits for them at every command.
    """
    lacking = [item for item in store.series if not item.thumbnail]
    if not lacking:
        return store
    try:
        lock = FileLock(store.directory / ".lock")
        with lock:
            lacking = [item for item in lacking if not _known(item)]
            for item, facts in mapped(_image, lacking, workers, "knowing images", "scan"):
                add_facts(item.directory, {"image": facts})
    except OSError as error:
        _log.warning(
            "%s: was prepared before images were told apart by content, and cannot be written (%s): copies of an image "
            "are not found there",
            store.directory,
            error.strerror,
        )
        return store
    return replace(store, series=tuple(_refreshed(item) for item in store.series))


def refuse_copies(series: Sequence[PreparedSeries], table: Path) -> None:
    """Refuse one image, or a part of it, under two patients, in whatever file, format or orientation.

    Args:
        series: prepared, of any splits.
        table: of the cohort, for the message.

    Raises:
        UserError: naming the series.
    """
    owners: defaultdict[str, list[PreparedSeries]] = defaultdict(list)
    for item in series:
        for digest in item.image_digests:
            owners[digest].append(item)
    shared: defaultdict[tuple[str, str], int] = defaultdict(int)
    pairs: dict[tuple[str, str], tuple[PreparedSeries, PreparedSeries]] = {}
    for digest, items in owners.items():
        for k, one in enumerate(items):
            for other in items[:k]:
                if one.series.patient_id != other.series.patient_id:
                    pair = (other.series.series_id, one.series.series_id)
                    pairs[pair] = (other, one)
                    shared[pair] += 2 if digest in (one.image_digests[0], other.image_digests[0]) else 1
    problems = [
        f"series {a!r} (patient {one.series.patient_id!r}, {one.series.split or 'no split'}) and {b!r} (patient "
        f"{two.series.patient_id!r}, {two.series.split or 'no split'}) are one image, or parts of one, by their "
        "voxels: a scan belongs to one patient; remove one row, or write one patient_id"
        for (a, b), (one, two) in sorted(pairs.items(), key=lambda pair: pair[0])
        if shared[a, b] > 1
    ]
    raise_problems(table, problems, WHAT)


def alike_elsewhere(some: Sequence[PreparedSeries], others: Sequence[PreparedSeries]) -> list[str]:
    """How many series look like those of another patient although no voxel need be the same, in words; logs which.

    Args:
        some: that are judged.
        others: that were learnt from.
    """
    some, others = ([item for item in items if item.thumbnail] for items in (some, others))
    if not some or not others:
        return []
    found = resemblance([item.thumbnail for item in some], [item.thumbnail for item in others])
    pairs = [
        (some[i].series, others[k].series, float(found[i, k]))
        for i, k in np.argwhere(found >= ALIKE)
        if some[i].series.patient_id != others[k].series.patient_id
    ]
    for one, other, correlation in pairs[:_LISTED]:
        _log.warning("%s and %s look like one image (correlation %.4f)", one.series_id, other.series_id, correlation)
    of = ", ".join(sorted({other.split or "no split" for _, other, _ in pairs}))
    return [f"{len(pairs)} pairs of scans of two patients look like one image, the other one of {of}."] if pairs else []


def digests_of(
    series: Sequence[Series], table: Path, folders: Sequence[Path], workers: int
) -> dict[str, tuple[str, ...]]:
    """Image digests of series that need not be prepared, by series id; a scan is read once, as long as it is the same.

    A scan that cannot be read has none: measuring it will say why.

    Args:
        series: of a cohort.
        table: of the cohort.
        folders: the first of them that can be written keeps what was found.
        workers: processes that read scans.
    """
    states = {item.series_id: source_state(replace(item, label=None), table.parent) for item in series}
    known: dict[str, list[str]] = {}
    for folder in folders:
        with suppress(OSError, ValueError):
            known |= json.loads((folder / KNOWN_FILE).read_text(encoding="utf-8"))
    todo = [item for item in series if states[item.series_id] not in known]
    found = {states[s.series_id]: list(d) for s, d in mapped(_digests, todo, workers, "knowing images", "scan")}
    for folder in folders if found else ():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_json_atomic(folder / KNOWN_FILE, known | found)
            break
    known |= found
    return {name: tuple(known[state]) for name, state in states.items()}


def _digests(series: Series) -> tuple[str, ...]:
    with suppress(UserError):
        return image_digests(read_series(series))
    return ()


def _image(item: PreparedSeries) -> dict[str, Any]:
    digests: tuple[str, ...] = ()
    with suppress(UserError):  # which preparing it again will say
        digests = image_digests(read_series(item.series))
    return {"digests": digests, "thumbnail": thumbnail(item.hu())}


def _known(item: PreparedSeries) -> bool:
    meta = read_meta(item.directory)
    return meta is not None and "image" in meta


def _refreshed(item: PreparedSeries) -> PreparedSeries:
    meta = read_meta(item.directory)
    return item if meta is None else replace(item, **image_facts(meta))
