from __future__ import annotations

import re
from typing import Any

import pytest

from iac_lightning.evaluation.tables.controls import control_table, summarise_controls
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.controls import controls_figure
from iac_lightning.report.models.controls import controls_section, worth_sentences
from iac_lightning.report.models.page import write_report
from tests.report_page import CONTEXT, Page
from tests.unit.iac_lightning.report.test_worth import ONE


@pytest.fixture
def controlled(model_results: dict[str, ModelResult]) -> dict[str, ModelResult]:
    """Two ViTs: one that needs its tokens and mixes nothing, one with convolutional tokens; and a CNN."""

    def under(model: ModelResult, loss: float, **facts: Any) -> ModelResult:
        lost = [
            {"dice": max(row["dice"] - loss, 0), "plain_dice": max(row["plain_dice"] - loss, 0)}
            for row in model.table.to_dict("records")
        ]
        same = [{"dice": row["dice"], "plain_dice": row["plain_dice"]} for row in model.table.to_dict("records")]
        found = {"mean_tokens": lost, "silenced_attention": same}
        table = control_table(model.table, model.table["series_id"].tolist(), found)
        controls = summarise_controls(table, list(found))
        return ModelResult(**{**vars(model), **facts, "summary": {**model.summary, "controls": controls}})

    return {
        "vit": under(model_results["vit"], 0.25),
        "scratch": under(model_results["scratch"], 0.0, convolutional_tokens=True),
        "cnn": model_results["cnn"],
    }


def test_a_sentence_for_each_vit_and_each_arm(controlled: dict[str, ModelResult]) -> None:
    vit, scratch, convolutions, transformer = worth_sentences(controlled, [ONE])
    assert re.fullmatch(
        r"VIT owes, in Dice, to its tokens \+0\.2\d\d \[\+0\.\d{3}; \+0\.\d{3}\] \(beyond chance of patients\) "
        r"and to its attention \+0\.000 \[\+0\.000; \+0\.000\] \(undecided\)\.",
        vit,
    )
    assert scratch.startswith("SCRATCH owes, in Dice, to its tokens +0.000 [+0.000; +0.000] (undecided)")
    assert "model.vit.depth=0" in convolutions
    assert transformer.startswith("The transformer is worth")
    assert worth_sentences({"cnn": controlled["cnn"]}, []) == []


@pytest.mark.usefixtures("undrawn")
def test_tables_hold_the_network_as_it_is_beside_each_control(controlled: dict[str, ModelResult]) -> None:
    section = controls_section(controlled, [ONE], "Missing.", CONTEXT)
    assert section is not None
    assert section.text.endswith("Missing.")
    controls, worth = section.tables
    assert [row[0] for row in controls.rows] == ["VIT", "+ threshold alone", "SCRATCH", "+ threshold alone"]
    vit, plain = controls.rows[:2]
    own, tokens = (float(cell[0]) for cell in vit[1:3])
    assert float(vit[3][0]) == pytest.approx(own - tokens, abs=1.1e-3)
    assert vit[4][0] == vit[1][0]
    assert float(plain[1][0]) == pytest.approx(controlled["vit"].summary["plain"]["dice"]["mean"], abs=5e-4)
    assert worth.name == "worth"
    assert controls_section({"cnn": controlled["cnn"]}, [], "", CONTEXT) is None


def test_a_network_without_blocks_has_no_attention_to_silence(controlled: dict[str, ModelResult]) -> None:
    vit = controlled["vit"]
    controls = {"mean_tokens": vit.summary["controls"]["mean_tokens"]}
    flat = {"vit": ModelResult(**{**vars(vit), "summary": {**vit.summary, "controls": controls}})}
    (sentence,) = worth_sentences(flat, [])
    assert "attention" not in sentence
    section = controls_section(flat, [], "", CONTEXT)
    assert section is not None
    assert section.tables[0].rows[0][4:] == ["–", "–"]
    (axes,) = controls_figure({"VIT": flat["vit"].summary}, "source").axes
    assert len(axes.lines) == 2


def test_the_figure_shows_the_three_dices(controlled: dict[str, ModelResult]) -> None:
    summary = controlled["vit"].summary
    (axes,) = controls_figure({"VIT": summary}, "48 scans").axes
    shown = [float(line.get_xdata()[0]) for line in axes.lines]
    under = [summary["controls"][name]["dice"]["mean"] for name in ("mean_tokens", "silenced_attention")]
    assert shown == pytest.approx([summary["dice"]["mean"], *under])
    assert "48 scans" in axes.get_title(loc="left")


@pytest.mark.usefixtures("undrawn")
def test_the_first_screen_says_it_and_the_section_shows_it(controlled: dict[str, ModelResult], tmp_path: Any) -> None:
    section = controls_section(controlled, [ONE], "", CONTEXT)
    assert section is not None
    sentences = worth_sentences(controlled, [ONE])
    text = write_report(tmp_path / "page", controlled, CONTEXT, [section], worth=sentences).read_text()
    first_screen = text[: text.index("<table")]
    assert all(sentence in first_screen for sentence in sentences)
    assert ">What the transformer does</h2>" in text
    assert (tmp_path / "page/tables/controls.csv").exists()
    assert (tmp_path / "page/figures/controls.png").exists()
    assert all(source.startswith("data:") or "/" not in source for source in Page(text).sources)
    without = write_report(tmp_path / "plain", controlled, CONTEXT).read_text()
    assert "pre-training do?" not in without
