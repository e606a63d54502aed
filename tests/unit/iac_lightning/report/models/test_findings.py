from __future__ import annotations

import re

from iac_lightning.evaluation.tables.comparison import compare
from iac_lightning.report.models.findings import described, of_analysis, of_models
from iac_lightning.report.page import ExtraFigure
from iac_lightning.report.words import estimate, number
from tests.report_page import PNG


def test_figures_are_told_in_values(model_results):
    words = of_models(model_results, compare(model_results, "dice"))
    dice = model_results["vit"].summary["dice"]
    assert words["dice"].startswith(f"Mean Dice: VIT {estimate(dice)}; SCRATCH ")
    assert re.search(r"VIT − SCRATCH \+0\.\d{3} \[\+0\.\d{3}; \+0\.\d{3}\] \(established\)", words["differences"])
    first = model_results["vit"].summary["thickness"][0]
    assert f"VIT {number(first['mean'])} at ≤ 1 mm, " in words["thickness"]
    assert "mm³ (bias and limits of agreement)" in words["volumes"]


def test_figures_of_an_analysis_are_told_in_values(model_results, analysis):
    words = of_analysis(model_results, analysis)
    assert set(words) == {
        "thickness_slopes",
        "roc",
        "confusion",
        "coverage",
        *(f"intervals_{k}" for k in (1, 2, 3)),
    }
    wrong = analysis["models"]["vit"]["risk"]["misclassified"]
    assert f"VIT {wrong} of {analysis['n_series']}" in words["confusion"]
    assert words["coverage"].startswith("Measured coverage, 90\u00a0% promised: VIT ")
    assert not any(re.search(r"\b(nan|None)\b", text) for text in words.values())


def test_words_of_its_own_stay_and_without_any_the_caption_stands():
    figures = [
        ExtraFigure(title="", caption="c", png=PNG, name="dice", alt="own"),
        ExtraFigure(title="", caption="c", png=PNG, name="dice"),
        ExtraFigure(title="T", caption="C.", png=PNG, name="other"),
    ]
    assert [f.alt for f in described(figures, {"dice": "found"})] == ["own", "found", "T. C."]
