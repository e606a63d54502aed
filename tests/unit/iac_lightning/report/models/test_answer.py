from __future__ import annotations

import re
from dataclasses import replace

from iac_lightning.evaluation.statistics.power import patients_needed
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, stratum_index
from iac_lightning.evaluation.tables.comparison import compare
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.evaluation.tables.summary import summarise
from iac_lightning.report.models.answer import answer_about_models, failures
from tests.report_page import CONTEXT


def test_answer_names_the_best_and_what_is_sure(model_results):
    found = answer_about_models(model_results, compare(model_results, "dice"), CONTEXT)
    assert re.match(r"VIT has the highest mean Dice: 0\.\d{3} \[0\.\d{3}; 0\.\d{3}\]", found.better[0])
    assert found.better[0].endswith("In brackets: 95\u00a0% interval over patients.")
    assert "38 scans with lesions (19 patients) among the 48 scans of 24 patients of the test split" in found.better[0]
    by_model = {name: next(s for s in found.better if f" {name} by " in s) for name in ("SCRATCH", "CNN")}
    assert re.search(r"exceeds SCRATCH by 0\.\d+ \[0\.\d+; 0\.\d+\] \(Holm-adjusted p < 0\.001\)", by_model["SCRATCH"])
    assert "is ahead of CNN" in by_model["CNN"]
    assert found.sure[0].startswith("Established against SCRATCH: the interval excludes 0")
    assert found.sure[1].startswith("Not established against CNN")
    scratch = replace(model_results["scratch"], label="ViT, from scratch")
    third = replace(model_results["scratch"], label="ViT, again")
    commas = {**model_results, "scratch": scratch, "third": third}
    sure = answer_about_models(commas, compare(commas, "dice"), CONTEXT).sure[0]
    assert sure.startswith("Established against ViT, from scratch; and ViT, again: ")  # two models, not three or four
    # SCRATCH − CNN is negative: the sentence turns it round, interval included
    turned = next(s for s in found.sure if s.startswith("Also established: CNN − SCRATCH"))
    low, high = (float(v) for v in re.search(r"\[(.*); (.*)\]", turned).groups())
    assert 0 < low < high


def test_answer_says_when_nothing_is_ranked_and_what_would_be_needed(model_results):
    close = {"vit": model_results["vit"], "cnn": model_results["cnn"]}
    comparisons = compare(close, "dice")
    found = answer_about_models(close, comparisons, CONTEXT)
    assert found.sure[0].startswith("Not established against CNN")
    assert "this sample ranks no model" in found.sure[0]
    size = patients_needed(comparisons[0].patients, 0.05, 0.8)
    about, fewest = (f"{round(n, min(0, 2 - len(str(n)))):,}" for n in (size.as_seen, size.fewest))
    assert size.as_seen > 19
    assert size.most is None
    assert f"would take about {about} patients with lesions against CNN (80\u00a0% power)" in found.sure[1]
    assert "From 19 patients that is no more than a guess: the 95\u00a0% interval of the effect allows" in found.sure[1]
    assert f"{fewest} or more without a limit against CNN." in found.sure[1]
    alone = answer_about_models({"vit": model_results["vit"]}, [], CONTEXT)
    assert len(alone.better) == 1
    assert "reaches a mean Dice" in alone.better[0]
    assert alone.fails == found.fails


def test_answer_says_where_the_best_model_fails(model_results):
    vit = model_results["vit"]
    table, fails = vit.table, answer_about_models(model_results, compare(model_results, "dice"), CONTEXT).fails
    lesions = table[table["has_lesion"]]
    by_stratum = lesions.groupby(stratum_index(lesions["slice_thickness_mm"]))["dice"].mean()
    worst = THICKNESS_STRATA[by_stratum.idxmin()][0]
    assert f"Weaker on slices of {worst} than on the others: mean Dice {by_stratum.min():.3f} [" in fails[0]
    assert "over the strata" in fails[0]
    n = len(lesions)  # of each scan's three lesions two are small, one of those and another one are hit
    assert fails[1] == f"Misses {n} of {2 * n} small lesions (up to 10\u00a0mm³) and 0 of {n} larger ones."
    free = table[~table["has_lesion"]]
    alarms = (free["volume_mm3"] > 0).sum()
    assert fails[2] == f"Raises a false alarm on {alarms} of {len(free)} scans without lesions."
    error = table["volume_error_mm3"]
    side = "small" if error.mean() < 0 else "large"
    assert f"off by {error.abs().median():.1f}\u00a0mm³ (median)" in fails[3]
    assert f"{abs(error.mean()):.1f}\u00a0mm³ too {side}" in fails[3]


def test_a_model_that_finds_nothing_is_told_so(model_results):
    table = model_results["vit"].table.assign(volume_mm3=0.0, n_lesions_hit=0, n_small_lesions_hit=0)
    summary = summarise(table[table["slice_thickness_mm"] < 1])
    text = " ".join(failures(ModelResult(**{**vars(model_results["vit"]), "summary": summary})))
    assert f"Finds nothing at all in {summary['n_with_lesion']} of {summary['n_with_lesion']} scans" in text
    assert "Weaker" not in text  # one stratum only
