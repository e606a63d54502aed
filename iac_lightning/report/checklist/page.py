"""The page that says of each item of a checklist where the report answers it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from data_modules.files import write_text_atomic
from iac_lightning.report.checklist.claim import CLAIM
from iac_lightning.report.checklist.lists import Item
from iac_lightning.report.checklist.metrics_reloaded import METRICS_RELOADED
from iac_lightning.report.checklist.places import PLACES, RUN_FILES
from iac_lightning.report.checklist.tripod_ai import TRIPOD_AI, TRIPOD_AI_ABSTRACTS
from iac_lightning.report.html import page_template
from iac_lightning.report.page import ReportContext

FILE = "checklist.html"
CHECKLISTS = (CLAIM, TRIPOD_AI, TRIPOD_AI_ABSTRACTS, METRICS_RELOADED)
REPORTED, IN_PART, PERSON, MISSING = "reported", "in part", "needs a person", "not reported"


@dataclass(frozen=True)
class Standing:
    """Where one item stands in one report.

    Attributes:
        status: `REPORTED`; `IN_PART`: a person must add to it; `PERSON`: the program cannot know it; `MISSING`: such
            reports can have it, this one has not.
        places: what each place is called, and its link; no link for a file of the runs.
        to_do: what a person must write, or which parts the report lacks.
    """

    status: str
    places: tuple[tuple[str, str], ...]
    to_do: str


def write_checklist(out: Path, context: ReportContext, page: str) -> Path:
    """Write `checklist.html` beside a page.

    Args:
        out: folder of the page.
        context: of the page.
        page: its HTML; an item stands only in a place whose anchor is in it.
    """
    found = anchors(page)
    standings = {
        checklist.name: [standing(item, found, context.run_files) for item in checklist.items]
        for checklist in CHECKLISTS
    }
    text = page_template("checklist/page.html.j2").render(
        context=context,
        checklists=CHECKLISTS,
        standings=standings,
        statuses=(REPORTED, IN_PART, PERSON, MISSING),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out / FILE, text)
    return out / FILE


def anchors(page: str) -> list[str]:
    """Names of the places of a page, in its order."""
    return re.findall(r'<[^<>]*\sid="([^"]+)"', page)


def standing(item: Item, found: Collection[str], run_files: Collection[str]) -> Standing:
    """Where an item stands.

    Args:
        item: of a checklist.
        found: anchors of the page.
        run_files: names of files that every run of the page has.
    """
    places: list[tuple[str, str]] = []
    lacking = []
    for key in item.where:
        if key in RUN_FILES:
            name, link = f"{RUN_FILES[key]} of each run", ""
            there = RUN_FILES[key] in run_files
        else:
            name, pattern = PLACES[key]
            anchor = next((anchor for anchor in found if fnmatchcase(anchor, pattern)), "")
            there, link = bool(anchor), f"index.html#{anchor}"
        if there:
            places.append((name, link))
        else:
            lacking.append(name)
    if places:
        return Standing(IN_PART if item.left else REPORTED, tuple(places), item.left)
    if lacking:
        needs = f"; then: {item.left}" if item.left else ""
        return Standing(MISSING, (), f"this report has no {', '.join(f'“{name}”' for name in lacking)}{needs}")
    return Standing(PERSON, (), item.left)
