from __future__ import annotations

from pathlib import Path

import pytest

from data_modules.cohort.table import Series
from iac_lightning.report.html import page_template
from iac_lightning.report.models.flow import flow_section, reason_words


def series(patient: str, split: str, *, labelled: bool = True) -> Series:
    label = Path("l.nii.gz") if labelled else None
    return Series(patient, f"{patient}_S1", Path("i.nii.gz"), label, split, 1.0)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            "/data/T1_S1.nii.gz: 62% of the voxels are labelled (3% are air), expected at most",
            "…% of the voxels are labelled",
        ),
        ("images/T1_S1: no slices; convert it", "no slices"),
        ("T1_S1 lies on another grid than T1's scan. Draw it again", "… lies on another grid than …'s scan"),
        ("ValueError: broken", "ValueError"),
        ("", "not said"),
    ],
)
def test_reasons_name_no_scan(reason, words):
    assert reason_words(reason, series("T1", "test")) == words


def test_series_are_followed_from_the_table_to_the_page():
    rows = [
        *(series(f"T{k}", "test", labelled=k != 3) for k in range(5)),
        series("D1", "dev"),
        series("P1", "pretrain", labelled=False),
        series("N1", ""),
    ]
    prepared = {s.series_id for s in rows} - {"T0_S1", "D1_S1"}
    section = flow_section(rows, {"T0_S1": "/x/T0_S1.nii: empty"}, prepared, {"T1_S1", "T2_S1"}, "test")
    flows = {flow.split: flow.steps for flow in section.flows}
    assert list(flows) == ["pretrain", "dev", "test", "no split"]
    test = flows["test"]
    assert [step.words for step in test] == [
        "In the cohort table: 5 series of 5 patients",
        "Prepared: 4 series of 4 patients",
        "With a label: 3 series of 3 patients",
        "Analysed on this page: 2 series of 2 patients",
    ]
    assert [step.left_out for step in test] == [
        (),
        ["1 rejected: empty"],
        ["1 without a label"],
        ["1 not evaluated: not in the tables of the models"],
    ]
    assert flows["dev"][1].left_out == ["1 not prepared"]
    assert "Analysed" not in str(flows["dev"])
    text = page_template("parts.html.j2").module.flow(section.flows)
    assert text.count('<li class="out">') == 4
    assert text.index("1 rejected: empty") < text.index("Prepared: 4 series")


def test_masks_of_another_program_were_not_prepared():
    section = flow_section([series("T1", "test")], {}, None, {"T1_S1"}, "test")
    assert [step.words[:8] for step in section.flows[0].steps] == ["In the c", "With a l", "Analysed"]
