"""The page that says of each item of a checklist where the report answers it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from data_modules.files import write_text_atomic
from iac_lightning.report.checklist.items import CHECKLISTS, Item
from iac_lightning.report.html import page_template, slug
from iac_lightning.report.page import ReportContext

FILE = "checklist.html"
UNKNOWN = "not known to the program: write it"

PLACES = {
    "models": "Models",
    "legend": "Models",
    "pairs": "Paired comparisons",
    "training": "Figures",
    "guard": "Can these figures be trusted?",
    "worth": "What the transformer does",
    "thickness": "Slice thickness",
    "risk": "Risk groups",
    "detection": "Detection per patient",
    "calibration": "Calibration",
    "point": "Operating point",
    "stages": "Before and after calibration",
    "volumes": "Volumes by size",
    "subgroups": "Subgroups",
    "readers": "Readers",
    "seeds": "Seeds and folds",
    "failures": "Failures",
    "flow": "Flow of patients and scans",
    "data": "Data",
    "made": "How this was made",
}
"""Keys of items to headings of the page; the first screen and what lies beside the page have words of their own."""

_ELSEWHERE = {
    "settings": "config.yaml of each run",
    "card": "card of the model's bundle (iac bundle)",
    "stress": "page of iac stress, where it was run",
}


def write_checklist(out: Path, context: ReportContext, headings: Collection[str], *, fails: bool) -> Path:
    """Write `checklist.html` beside a page.

    Args:
        out: folder of the page.
        context: of the page.
        headings: that the page has.
        fails: whether its first screen says how sure the answer is and where the best model fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    lists = {
        name: [(item.number, item.asks, *standing(item, context, headings, fails=fails)) for item in items]
        for name, items in CHECKLISTS.items()
    }
    text = page_template("checklist/page.html.j2").render(context=context, lists=lists, unknown=UNKNOWN)
    write_text_atomic(out / FILE, text)
    return out / FILE


def standing(
    item: Item, context: ReportContext, headings: Collection[str], *, fails: bool
) -> tuple[list[tuple[str, str]], str]:
    """(place, link) of each part that answers an item; what is left to the authors, `UNKNOWN` where it is all.

    Args:
        item: of a checklist.
        context: of the page.
        headings: that the page has.
        fails: as in `write_checklist`.
    """
    places: dict[str, str] = {}
    for key in item.where:
        heading = PLACES.get(key, "")
        if heading in headings:
            places[heading] = f"index.html#{slug(heading)}"
        elif key in ("question", "answer", "caveat"):
            shown = {"question": context.question, "answer": fails, "caveat": context.caveat}[key]
            if shown:
                places["First screen"] = "index.html#content"
        elif key in _ELSEWHERE:
            places[_ELSEWHERE[key]] = ""
    if not places:
        return [], f"{UNKNOWN} ({item.left})" if item.left else UNKNOWN
    return list(places.items()), f"{UNKNOWN}: {item.left}" if item.left else ""
