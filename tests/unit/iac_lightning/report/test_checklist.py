from __future__ import annotations

import re
from dataclasses import replace

import pytest

from iac_lightning.report.checklist.lists import Item
from iac_lightning.report.checklist.page import (
    CHECKLISTS,
    IN_PART,
    MISSING,
    PERSON,
    REPORTED,
    Standing,
    anchors,
    standing,
    write_checklist,
)
from iac_lightning.report.checklist.places import PLACES, RUN_FILES
from tests.report_page import CONTEXT

CLAIM, TRIPOD, ABSTRACTS, RELOADED = CHECKLISTS
TRIPOD_NUMBERS = (
    "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17 "
    "18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c"
)
PAGE = '<p id="question">?</p><div class="card" id="better"></div><h2 id="data">Data</h2><div id="table-subgroups_2">'


def test_the_lists_are_whole():
    assert [item.number for item in CLAIM.items] == [str(k) for k in range(1, 45)]
    assert " ".join(item.number for item in TRIPOD.items) == TRIPOD_NUMBERS
    assert [item.number for item in ABSTRACTS.items] == [str(k) for k in range(1, 14)]
    assert len({item.asks for item in RELOADED.items}) == len(RELOADED.items)


@pytest.mark.parametrize("checklist", CHECKLISTS, ids=lambda checklist: checklist.name)
def test_every_item_says_where_or_who_and_what_it_was_compared_with(checklist):
    for item in checklist.items:
        assert item.where or item.left, item
        assert set(item.where) <= {*PLACES, *RUN_FILES}, item
        assert set(item.checked) <= set(checklist.sources), item
        assert item.checked or not item.number, f"a number that was compared with nothing: {item}"
    assert {letter for item in checklist.items for letter in item.checked} == set(checklist.sources)


def test_an_item_stands_only_where_the_page_has_it():
    item = Item("1", "Results", "subgroups", ("subgroups", "settings"), "centres")
    found = anchors(PAGE)
    place, file = ("Subgroups", "index.html#table-subgroups_2"), ("config.yaml of each run", "")
    assert standing(item, found, ["config.yaml"]) == Standing(IN_PART, (place, file), "centres")
    assert standing(replace(item, left=""), found, []) == Standing(REPORTED, (place,), "")
    lacks = "this report has no “Subgroups”, “config.yaml of each run”; then: centres"
    assert standing(item, ["data"], []) == Standing(MISSING, (), lacks)
    assert standing(replace(item, left=""), ["subgroups"], []).status == MISSING  # the heading alone is not the table
    assert standing(Item("2", "", "x", (), "y"), found, []) == Standing(PERSON, (), "y")


def test_anchors_are_those_of_tags():
    assert anchors(PAGE) == ["question", "better", "data", "table-subgroups_2"]
    assert anchors('<p>id=&quot;data&quot;</p> id="data"') == []


def test_page_links_to_what_the_report_has_and_to_nothing_else(tmp_path):
    text = write_checklist(tmp_path, CONTEXT, PAGE).read_text()
    assert set(re.findall(r'href="index.html#(.*?)"', text)) == {"question", "better", "data", "table-subgroups_2"}
    assert text.count('<tr><th scope="row">') == sum(len(checklist.items) for checklist in CHECKLISTS)
    assert "config.yaml of each run</td>" not in text
    assert "this report has no “Readers”" in text.replace("&#34;", '"')
    less = write_checklist(tmp_path, CONTEXT, PAGE.replace('id="data"', "")).read_text()
    assert "index.html#data" not in less  # what vanishes from the page vanishes from the list


def test_page_says_what_was_checked_and_what_was_not(tmp_path):
    text = write_checklist(tmp_path, CONTEXT, PAGE).read_text()
    unknown = sum(not item.checked for item in RELOADED.items)
    assert f"Of {unknown} of the {len(RELOADED.items)} items no published text was found" in text
    assert text.count(">not found</td>") == unknown
    assert "the journal&#39;s own page was not at hand" in text
