"""Sections beside the analysis: steps of calibration, volumes, subgroups, all paired tests, seeds and folds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iac_lightning.evaluation.ablation.recipes import Candidate
from iac_lightning.evaluation.ablation.repeats import repeats
from iac_lightning.evaluation.tables.comparison import compare
from iac_lightning.report.models.paired import HEADLINE, measures_table
from iac_lightning.report.models.repeats import repeats_section, training_sentence
from iac_lightning.report.models.sentences import threshold_sentence
from iac_lightning.report.models.stages import stages_section
from iac_lightning.report.models.subgroups import subgroups_section
from iac_lightning.report.models.volumes import volumes_section
from tests.report_page import CONTEXT

pytestmark = pytest.mark.usefixtures("undrawn")


def first(cell):
    return cell if isinstance(cell, str) else cell[0]


def test_uncalibrated_stands_beside_calibrated(model_results):
    vit = model_results["vit"]
    columns = {c: "uncalibrated_" + c.removeprefix("plain_") for c in vit.table if c.startswith("plain_")}
    table = vit.table.assign(**{new: vit.table[old] for old, new in columns.items()})
    table["uncalibrated_n_predicted"] += 4
    known = replace(vit, table=table, summary={**vit.summary, "uncalibrated": vit.summary["plain"]})
    section = stages_section({"vit": known, "cnn": model_results["cnn"]}, CONTEXT)
    assert section.text.endswith("Not measured without calibration: CNN (evaluate again, or masks were given).")
    stages, point = section.tables
    names = [first(row[0]) for row in stages.rows]
    assert names == [
        "VIT: uncalibrated, at 0.5",
        "+ calibrated, threshold alone",
        "+ operating point",
        "CNN: calibrated, threshold alone",
        "+ operating point",
    ]
    dice, false = ([first(row[k]) for row in stages.rows] for k in (1, 6))
    assert dice[0] == dice[1] != dice[2]
    assert float(false[0]) == pytest.approx(float(false[1]) + 4, abs=0.06)
    n_free = vit.summary["n_lesion_free"]
    assert stages.rows[2][-1] == f"{vit.summary['n_false_alarm']} of {n_free}"
    assert point.rows[0][3] == f"{n_free - vit.summary['n_false_alarm']} of {n_free} scans"


def test_volumes_by_size_say_the_finding(model_results):
    section = volumes_section(model_results, CONTEXT)
    rows = section.tables[0].rows
    assert [first(r[0]) for r in rows if not first(r[0]).startswith("+")] == ["VIT", "SCRATCH", "CNN"]
    ratio, limits = rows[0][5]
    low, high = limits.split("; ")
    assert f"VIT: predicted over labelled volume {ratio} on average, limits of agreement {low} to {high}" in (
        section.figures[0].alt
    )


def test_no_limits_of_agreement_of_few_scans_are_said(model_results):
    vit = model_results["vit"]
    both = (vit.table["volume_mm3"] > 0) & (vit.table["label_volume_mm3"] > 0)
    section = volumes_section({"vit": replace(vit, table=vit.table[both].head(4))}, CONTEXT)
    assert "; " not in section.tables[0].rows[0][5]
    assert "limits of agreement" not in section.figures[0].alt
    assert "on average over 4 scans" in section.figures[0].alt


def test_subgroups_are_corrected_over_all_models(model_results):
    ids = list(model_results["vit"].table["series_id"])
    given = {
        "manufacturer": {name: "AB"[k % 2] for k, name in enumerate(ids)},
        "kernel": dict.fromkeys(ids, ""),
    }
    section = subgroups_section(model_results, given, CONTEXT)
    assert "the cohort table does not say: kernel." in section.text
    assert [table.title for table in section.tables] == ["VIT", "SCRATCH", "CNN"]
    names = [row[0] for row in section.tables[0].rows]
    assert names[:3] == ["manufacturer: A", "manufacturer: B", "slice thickness: ≤ 1 mm"]
    a, b = (first(section.tables[0].rows[k][3]) for k in (0, 1))
    assert a.replace("−", "+") == b.replace("−", "+")
    assert a != b


def test_every_headline_measure_is_tested_and_corrected(model_results):
    comparisons = compare(model_results, "dice")
    table = measures_table(comparisons, model_results, CONTEXT)
    assert len(table.rows) == 2 * 3
    assert "21 tests" in table.legend
    assert len(table.header) == 1 + len(HEADLINE)
    by_name = {row[0]: row for row in table.rows if not row[0].startswith("+")}
    worse = by_name["VIT − SCRATCH"]
    assert first(worse[1]).endswith("*")
    dice = next(c for c in comparisons if (c.first, c.second) == ("VIT", "SCRATCH"))
    assert first(worse[1]) == f"{dice.paired.difference.estimate:+.3f}*"
    assert all("*" not in first(cell) for cell in by_name["VIT − CNN"][1:6])


def candidate(table, name: str, seed: int, fold=None, width: int = 8) -> Candidate:
    settings = {
        "name": name,
        "seed": seed,
        "init_from": "",
        "model.name": "cnn",
        "model.cnn.width": width,
        "data.fold": fold,
        "data.more_folds": [],
    }
    return Candidate(settings=settings, table=table)


def test_seeds_and_folds_of_one_recipe(model_results):
    tables = {name: model.table for name, model in model_results.items()}
    candidates = [
        candidate(tables["cnn"], "cnn", 1, 0),
        candidate(tables["vit"], "vit", 0, 1),
        candidate(tables["scratch"], "scratch", 0, width=16),
    ]
    (found,) = repeats(candidates)
    assert (found.names, found.seeds, found.folds) == (("vit", "cnn"), (0, 1), (1, 0))
    dice = [model_results[name].summary["dice"]["mean"] for name in ("vit", "cnn")]
    assert found.spreads["dice"].means == pytest.approx(dice)
    assert found.spreads["dice"].sd == pytest.approx(abs(dice[0] - dice[1]) / 2**0.5)
    (section,) = repeats_section([found], model_results, CONTEXT)
    rows = section.tables[0].rows
    assert rows[0][:3] == ["VIT: mean ± SD", "2 trainings", ""]
    assert rows[1][:4] == ["+ vit", "seed 0", "fold 1", f"{dice[0]:.3f}"]
    assert repeats_section([], model_results, CONTEXT) == []


def test_sentences_say_what_was_done(model_results):
    found = repeats([candidate(model_results[name].table, name, k) for k, name in enumerate(("vit", "cnn"))])
    assert training_sentence([], 2, 0, 0).startswith("One training of each model:")
    assert training_sentence(found, 3, 1, 0).startswith(
        "2 of 3 models are trainings of 1 recipe (Seeds and folds); how 1 model from elsewhere came about is not known:"
    )
    vit, cnn = model_results["vit"], model_results["cnn"]
    chosen = replace(vit, summary={**vit.summary, "calibration": {"file": "calibration.json"}})
    assert threshold_sentence({"v": chosen}) == "Thresholds: chosen on the development split."
    assert threshold_sentence({"v": chosen, "c": cnn, "m": replace(cnn, label="M", threshold=None)}) == (
        "Thresholds: chosen on the development split (VIT); given by hand, or 0.5 where none was (CNN); none, as masks "
        "were given (M)."
    )
