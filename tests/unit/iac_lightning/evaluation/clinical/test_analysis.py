from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from data_modules.errors import UserError
from iac_lightning.evaluation.clinical.analysis import METRICS, SLOPES, Shortage, analyse, detection, shortage
from iac_lightning.evaluation.clinical.conformal import fit_conformal
from iac_lightning.evaluation.clinical.risk import RiskCutoffs, risk_groups
from iac_lightning.evaluation.statistics.classification import confusion_matrix
from iac_lightning.evaluation.statistics.paired import holm, paired_difference
from iac_lightning.evaluation.statistics.strata import strata_from_edges


def invented(patients: int, prefix: str, quality: float, seed: int = 0) -> pd.DataFrame:
    """Labels follow from the split alone, predictions from the quality too."""
    rng = np.random.default_rng([seed, len(prefix)])
    series = rng.integers(1, 4, patients)
    names = np.repeat([f"{prefix}{i:03d}" for i in range(patients)], series)
    n = len(names)
    label = np.repeat(rng.lognormal(3.5, 1.2, patients) * (rng.random(patients) > 0.25), series)
    thickness = rng.choice([0.7, 1.5, 3.0, 5.0, 8.0], n)
    noise = np.random.default_rng([seed, int(100 * quality)])
    dice = np.clip(quality - 0.04 * thickness + noise.normal(0, 0.08, n), 0, 1)
    volume = label * noise.lognormal(0, 1.2 * (1 - quality), n)
    volume[noise.random(n) < 0.1] = 0
    return pd.DataFrame(
        {
            "series_id": [f"{prefix}s{i:03d}" for i in range(n)],
            "patient_id": names,
            "slice_thickness_mm": thickness,
            "has_lesion": label > 0,
            "label_volume_mm3": label,
            "volume_mm3": volume,
            "dice": np.where(label > 0, dice, 0.0),
            "sensitivity": np.where(label > 0, dice, np.nan),
            "lesion_f1": np.where(label > 0, dice, np.nan),
            "ppv": np.where(volume > 0, dice, np.nan),
        }
    )


QUALITY = {"cnn": 0.6, "vit": 0.8, "scratch": 0.61}
TEST = {name: invented(60, "t", quality) for name, quality in QUALITY.items()}
DEV = {name: invented(50, "dev", quality) for name, quality in QUALITY.items()}


@pytest.fixture(scope="module")
def result() -> dict:
    shuffled = TEST | {"vit": TEST["vit"].sample(frac=1, random_state=0)}
    return analyse(shuffled, DEV, baseline="cnn")


def test_result_is_json_and_states_its_sources(result):
    json.dumps(result, allow_nan=False)
    assert result["n_series"] == len(TEST["cnn"])
    assert result["n_patients"] == 60
    assert "development patients" in result["cutoffs"]["source"]
    assert list(result["models"]) == ["cnn", "vit", "scratch"]


def test_each_model_is_judged_by_the_same_cutoffs(result):
    cutoffs = RiskCutoffs(**result["cutoffs"])
    for name, table in TEST.items():
        groups = [risk_groups(table[column], cutoffs) for column in ("label_volume_mm3", "volume_mm3")]
        risk = result["models"][name]["risk"]
        assert risk["confusion"] == confusion_matrix(*groups, 4).tolist()
        assert risk["misclassified"] == int((groups[0] != groups[1]).sum())
        assert risk["accuracy"]["value"] == pytest.approx((groups[0] == groups[1]).mean())


def test_comparisons_are_corrected_over_the_table(result):
    assert [(c["model"], c["baseline"]) for c in result["comparisons"]] == [("vit", "cnn"), ("scratch", "cnn")]
    rows = [metric for c in result["comparisons"] for metric in c["metrics"].values()]
    assert len(rows) == 2 * len(METRICS)
    np.testing.assert_allclose([r["holm_p"] for r in rows], holm([r["wilcoxon_p"] for r in rows]))
    raw = [c["risk"]["patients"]["exact_p"] for c in result["comparisons"]]
    np.testing.assert_allclose([c["risk"]["patients"]["holm_p"] for c in result["comparisons"]], holm(raw))
    lesions = TEST["cnn"]["has_lesion"].to_numpy()
    expected = paired_difference(
        TEST["vit"]["dice"][lesions],
        TEST["cnn"]["dice"][lesions],
        TEST["cnn"]["patient_id"][lesions],
    )
    dice = result["comparisons"][0]["metrics"]["dice"]
    assert dice["difference"]["value"] == pytest.approx(expected.difference.estimate)
    assert dice["difference"]["ci95"] == pytest.approx([expected.difference.low, expected.difference.high])
    assert (dice["wins"], dice["losses"]) == (expected.wins, expected.losses)
    vit, cnn = (result["models"][name]["risk"]["misclassified"] for name in ("vit", "cnn"))
    assert result["comparisons"][0]["risk"]["relative_change"]["value"] == pytest.approx((vit - cnn) / cnn)


def test_slopes_of_scans_with_lesions(result):
    table = TEST["vit"][TEST["vit"]["has_lesion"]]
    slope = result["models"]["vit"]["thickness"]["dice"]["slope_per_mm"]
    assert slope["value"] == pytest.approx(np.polyfit(table["slice_thickness_mm"], table["dice"], 1)[0])
    assert slope["n"] == len(table)
    ppv = TEST["vit"].dropna(subset="ppv")
    assert result["models"]["vit"]["thickness"]["ppv"]["slope_per_mm"]["n"] == len(ppv)
    strata = result["models"]["vit"]["thickness"]["dice"]["strata"]
    assert [s["stratum"] for s in strata] == ["≤ 1 mm", "1–2 mm", "2–4 mm", "4–6 mm", "> 6 mm"]


def test_every_measure_is_compared_over_slice_thickness(result):
    comparison = result["comparisons"][0]
    assert comparison["thickness"].keys() == {"dice", "sensitivity", "ppv", "lesion_f1"}  # what the tables hold
    for measure, difference in comparison["thickness"].items():
        slopes = [result["models"][n]["thickness"][measure]["slope_per_mm"]["value"] for n in ("vit", "cnn")]
        if measure != "ppv":  # defined on other scans for each model
            assert difference["slope_per_mm"]["value"] == pytest.approx(slopes[0] - slopes[1])


def test_slopes_and_strata_are_corrected_over_measures_and_models(result):
    for kind in SLOPES:
        for parts in (result["models"].values(), result["comparisons"]):
            slopes = [by_kind[kind] for part in parts for by_kind in part["thickness"].values()]
            assert len(slopes) == len(parts) * 4
            expected = holm([slope.get("p", float("nan")) for slope in slopes])
            found = [float("nan") if slope["holm_p"] is None else slope["holm_p"] for slope in slopes]
            assert found == pytest.approx(expected, nan_ok=True)
    strata = [s for c in result["comparisons"] for m in c["thickness"].values() for s in m["strata"]]
    found = [float("nan") if s["holm_p"] is None else s["holm_p"] for s in strata]
    assert found == pytest.approx(holm([s.get("p", float("nan")) for s in strata]), nan_ok=True)
    assert "holm_p" not in result["models"]["vit"]["thickness"]["dice"]["strata"][0]  # a mean is not tested


def test_without_development_tables_there_is_what_needs_none():
    strata = strata_from_edges([3.0])
    found = analyse(TEST, {}, baseline="cnn", thickness_strata=strata)
    assert found["cutoffs"] is None
    assert found["models"]["vit"].keys() == {"thickness", "detection"}
    assert "risk" not in found["comparisons"][0]
    assert found["settings"]["thickness_edges_mm"] == [3.0]
    assert [s["stratum"] for s in found["models"]["vit"]["thickness"]["dice"]["strata"]] == ["≤ 3 mm", "> 3 mm"]
    cutoffs = RiskCutoffs(low_mm3=20, medium_mm3=80, source="fixed")
    fixed = analyse(TEST, {}, baseline="cnn", cutoffs=cutoffs)
    assert fixed["models"]["vit"].keys() == {"thickness", "detection", "risk"}
    assert "relative_change" in fixed["comparisons"][0]["risk"]


def test_coverage_and_strata_of_the_settings_reach_the_intervals():
    strata = strata_from_edges([3.0])
    found = analyse({"vit": TEST["vit"]}, {"vit": DEV["vit"]}, coverage=0.8, thickness_strata=strata)
    fit = fit_conformal(DEV["vit"], 0.8, strata)
    conformal = found["models"]["vit"]["conformal"]
    assert conformal["promised"] == 0.8
    assert [part["radius"] for part in conformal["radii"]] == [part.radius for part in fit.radii]
    assert [row["stratum"] for row in conformal["coverage"]] == ["all", "≤ 3 mm", "> 3 mm"]
    assert shortage({"vit": DEV["vit"]}, 0.8) is None
    assert shortage(DEV, 0.99) == Shortage(n_patients=50, needed=99, coverage=0.99)


def test_every_scan_has_an_interval_and_groups(result):
    conformal = result["models"]["vit"]["conformal"]
    assert [row["series_id"] for row in conformal["scans"]] == TEST["vit"]["series_id"].tolist()
    fit = fit_conformal(DEV["vit"], 0.9)
    assert [part["radius"] for part in conformal["radii"]] == [part.radius for part in fit.radii]
    assert "≥ 90%" in conformal["promise"]
    alone = [len(row["groups"]) == 1 for row in conformal["scans"]]
    assert conformal["one_group_share"] == pytest.approx(np.mean(alone))
    covered = np.mean([row["covered"] for row in conformal["scans"]])
    assert conformal["coverage"][0]["scan_coverage"] == pytest.approx(covered)


def test_detection_takes_the_largest_score_of_a_patient():
    table = pd.DataFrame(
        {
            "patient_id": ["a", "a", "b", "c", "c"],
            "volume_mm3": [0.0, 9.0, 5.0, 1.0, 2.0],
            "has_lesion": [True, True, False, True, False],
        }
    )
    found = detection(table)  # a 9 with, b 5 without, c 2 with
    assert (found.auc.estimate, found.auc.n, found.n_positive) == (0.5, 3, 2)


def test_cutoffs_may_be_fixed_in_advance():
    cutoffs = RiskCutoffs(low_mm3=20, medium_mm3=80, source="fixed in the protocol")
    found = analyse({"vit": TEST["vit"]}, {"vit": DEV["vit"][:6]}, cutoffs=cutoffs)
    assert found["comparisons"] == []
    assert (found["cutoffs"]["low_mm3"], found["cutoffs"]["source"]) == (20, "fixed in the protocol")
    assert found["models"]["vit"]["conformal"]["scans"][0]["high_mm3"] is None  # too few development patients
    json.dumps(found, allow_nan=False)


def test_development_tables_may_be_too_small():
    patients = DEV["vit"]["patient_id"].unique()
    eight, nine = (DEV["vit"][DEV["vit"]["patient_id"].isin(patients[:n])] for n in (8, 9))
    assert shortage(DEV) is None
    assert shortage({"vit": nine}) is None
    few = shortage(DEV | {"vit": eight})
    assert few == Shortage(n_patients=8, needed=9, coverage=0.9)
    assert few.of_patients
    for volume in (7.0, 0.0):
        alike = {"vit": DEV["vit"].assign(label_volume_mm3=volume)}
        assert not shortage(alike).of_patients
        assert shortage(alike, cutoffs=RiskCutoffs(low_mm3=20, medium_mm3=80, source="fixed")) is None


@pytest.mark.parametrize(
    ("models", "dev", "message"),
    [
        (TEST | {"vit": TEST["vit"][1:]}, DEV, "same series"),
        (TEST, DEV | {"vit": TEST["vit"]}, "60 patients .* in the test table too"),
    ],
)
def test_what_cannot_be_analysed(models, dev, message):
    with pytest.raises(UserError, match=message):
        analyse(models, dev)
