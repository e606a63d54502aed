from __future__ import annotations

import re

from iac_lightning.report.checklist.items import CHECKLISTS, Item
from iac_lightning.report.checklist.page import PLACES, UNKNOWN, standing, write_checklist
from iac_lightning.report.html import slug
from tests.report_page import CONTEXT


def test_the_lists_are_whole():
    assert [item.number for item in CHECKLISTS["CLAIM (2024)"]] == [str(k) for k in range(1, 45)]
    numbers = [item.number for item in CHECKLISTS["TRIPOD+AI (2024)"]]
    assert len(numbers) == len(set(numbers)) == 52
    assert {int(re.sub(r"\D", "", number)) for number in numbers} == set(range(1, 28))
    for items in CHECKLISTS.values():
        assert all(item.where or item.left for item in items)


def test_an_item_stands_only_where_the_page_has_it():
    item = Item("1", "subgroups", ("subgroups", "settings"), "centres")
    places, left = standing(item, CONTEXT, ["Models", "Subgroups"], fails=True)
    assert places == [("Subgroups", "index.html#subgroups"), ("config.yaml of each run", "")]
    assert left == f"{UNKNOWN}: centres"
    assert standing(Item("2", "x", ("subgroups",)), CONTEXT, ["Models"], fails=True) == ([], UNKNOWN)
    assert standing(Item("3", "x", (), "y"), CONTEXT, PLACES.values(), fails=True) == ([], f"{UNKNOWN} (y)")
    assert standing(Item("4", "x", ("caveat",)), CONTEXT, [], fails=True) == ([], UNKNOWN)  # this page has none
    first = standing(Item("5", "x", ("answer", "question")), CONTEXT, [], fails=False)
    assert first == ([("First screen", "index.html#content")], "")


def test_page_links_to_headings_of_the_report(tmp_path):
    headings = ["Models", "Flow of patients and scans"]
    text = write_checklist(tmp_path, CONTEXT, headings, fails=True).read_text()
    links = set(re.findall(r'href="index.html#(.*?)"', text))
    assert links == {"content", *map(slug, headings)}
    assert text.count("<tr><th") == sum(map(len, CHECKLISTS.values())) + 3
    assert UNKNOWN in text
