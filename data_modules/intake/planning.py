"""Which series are still to be read, and what is known of those that were: an import goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from data_modules.files import sha256, write_json_atomic
from data_modules.intake import codes
from data_modules.intake.exams import FoundSeries
from data_modules.intake.ids import Codes
from data_modules.intake.index import Index
from data_modules.intake.tasks import VERSION, Task, image_path
from data_modules.progress import shown

Runner = Callable[[Iterable[Task]], Iterable[tuple[Task, dict[str, Any]]]]
"""Does tasks, and gives each with its result as it ends."""
TASKS = ".tasks"
"""Folder of the results of single series, in the output."""


def read_all(
    index: Index, ids: Codes, series: list[FoundSeries], out: Path, template: Path | None, runner: Runner
) -> dict[str, dict[str, Any]]:
    """Results of all series that are worth reading; those of a joined one that could not be read are read apart.

    Returns:
        By code: facts, warnings, digest.
    """
    by_id = {item.series_id: item for item in series}
    whole = [item for item in series if (item.code == codes.OK and not item.joined) or item.parts]
    known = _done(index, ids, whole, out, template, runner)
    apart: list[FoundSeries] = []
    for item in [item for item in whole if item.parts and known[item.series_id]["code"] != codes.JOINED]:
        series.remove(item)
        del known[item.series_id]
        for part in (by_id[code] for code in item.parts):
            part.joined = ""
            part.warnings.append(
                "looked like a part of one scan with another series, but the two cannot be read as one"
            )
            apart += [part] if part.code == codes.OK else []
    known |= _done(index, ids, apart, out, template, runner)
    for item in series:
        if item.joined:
            item.code = codes.JOINED
        elif item.series_id in known:
            _take_over(item, known[item.series_id])
    return known


def _take_over(item: FoundSeries, result: dict[str, Any]) -> None:
    item.code = result["code"]
    item.found = result["found"] or (item.found if item.parts else "")
    item.facts |= result.get("facts", {})
    item.warnings += result["warnings"]


def _done(
    index: Index, ids: Codes, todo: list[FoundSeries], out: Path, template: Path | None, runner: Runner
) -> dict[str, dict[str, Any]]:
    """Results of series: those on disk whose files have not changed, the others by the workers."""
    given = [VERSION, sha256(template) if template else ""]
    states: dict[str, tuple[str, str]] = {}
    known: dict[str, dict[str, Any]] = {}
    for item in todo:
        content, stat = _state(index, item)
        state = ids.code("", json.dumps([*given, content]))
        states[item.series_id] = state, stat
        if (result := _earlier(index, out, item.series_id, state, stat)) is not None:
            known[item.series_id] = result
    images = {result["digest"] for code, result in known.items() if "digest" in result and _has_files(out, code)}
    # An image that is there under another code is a duplicate's, which was removed.
    known = {code: result for code, result in known.items() if "digest" not in result or result["digest"] in images}
    missing = [item for item in todo if item.series_id not in known]
    where = str(template.resolve()) if template else None
    # Tasks are made as they are taken: a list of all files of all series would fill the memory.
    tasks = (Task(i.series_id, _slices(index, i), bool(i.parts), str(out.absolute()), where) for i in missing)
    for task, result in shown(runner(tasks), len(missing), "import", "series"):
        state, stat = states[task.series_id]
        write_json_atomic(_result_path(out, task.series_id), {"state": state, **result})
        index.finish(task.series_id, stat)
        known[task.series_id] = result
    return known


def _slices(index: Index, item: FoundSeries) -> tuple[tuple[str, str], ...]:
    """Place and name of each slice."""
    return tuple(
        (place, f"{k}_{name}" if item.parts else name)
        for k, code in enumerate(item.parts or (item.series_id,))
        for place, name, *_ in index.slices(code)
    )


def _state(index: Index, item: FoundSeries) -> tuple[str, str]:
    """The state of a series' slices, by content and by time of change."""
    content, stat = hashlib.sha256(), hashlib.sha256()
    for code in item.parts or (item.series_id,):
        for _, _, instance, size, mtime, facts in index.slices(code):
            content.update(repr((instance, size, facts)).encode())
            stat.update(repr((size, mtime)).encode())
    return content.hexdigest(), stat.hexdigest()


def _earlier(index: Index, out: Path, series_id: str, state: str, stat: str) -> dict[str, Any] | None:
    """The result of an earlier import, if it still counts."""
    if index.finished(series_id) != stat:
        return None
    try:
        result: dict[str, Any] = json.loads(_result_path(out, series_id).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if result.pop("state", "") != state or result["code"] in codes.RETRIED:
        return None
    return result


def _has_files(out: Path, series_id: str) -> bool:
    image = image_path(out, series_id)
    return image.is_file() and image.with_name(f"{series_id}.json").is_file()


def _result_path(out: Path, series_id: str) -> Path:
    return out / TASKS / f"{series_id}.json"
