from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from data_modules.errors import UserError
from data_modules.processes import Helpers
from iac_lightning.evaluation.metrics.series import series_metrics
from iac_lightning.evaluation.statistics.agreement import icc_2_1, rating_columns
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.evaluation.tables.series_table import (
    METRICS,
    read_series_table,
    series_row,
    series_table,
    write_series_table,
)
from iac_lightning.evaluation.tables.summary import (
    INTERVALS,
    read_summary,
    summarise,
    weakest_stratum,
    write_summary,
)
from tests.unit.iac_lightning.evaluation.tables.conftest import mask


def icc(ratings: np.ndarray) -> float:
    return float(icc_2_1(rating_columns(ratings).sum(axis=0)))


def test_which_scans_each_mean_covers(table):
    found = summarise(table)
    assert table["series_id"].tolist() == ["a1", "b1", "c1", "c2"]
    assert (found["n_series"], found["n_patients"], found["n_with_lesion"], found["n_lesion_free"]) == (4, 3, 2, 2)
    assert (found["n_both_empty"], found["n_false_alarm"]) == (1, 1)
    assert found["dice"]["mean"] == pytest.approx((1 + 0.5) / 2)
    assert (found["dice"]["n"], found["dice"]["n_patients"]) == (2, 2)
    assert found["dice"]["ci95"] == [None, None]
    assert found["dice"]["points"] == pytest.approx([0.5, 1.0])
    assert found["dice_all"]["mean"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert found["sensitivity"]["mean"] == pytest.approx((1 + 0.5) / 2)
    assert found["ppv"]["mean"] == pytest.approx((1 + 0.5 + 0) / 3)  # the false alarm counts, the empty scan cannot
    assert found["lesion_f1"]["mean"] == 1.0
    assert found["lesions"] == {"n": 2, "hit": 2, "predicted": 3, "predicted_hit": 2, "small": 2, "small_hit": 2}
    assert found["intervals"] == INTERVALS


def test_volumes_cover_all_scans_in_mm3(table):
    found = summarise(table)
    predicted, labelled = [4.0, 8.0, 6.0, 0.0], [4.0, 8.0, 0.0, 0.0]
    assert table["volume_mm3"].tolist() == predicted
    assert found["volume_icc"]["value"] == pytest.approx(icc(np.stack([predicted, labelled], 1)))
    assert found["volume_error"]["bias_mm3"] == pytest.approx(1.5)
    assert found["volume_error"]["median_absolute_mm3"] == 0.0
    assert found["true_volume"]["volume_error"]["bias_mm3"] == pytest.approx(4.5 - 1.0)


def test_errors_surfaces_and_scores(table):
    rows = table.set_index("series_id")
    assert rows["volume_error_mm3"].tolist() == [0.0, 0.0, 6.0, 0.0]
    assert rows["true_volume_error_mm3"].tolist() == [3.0, 7.0, 5.0, -1.0]
    assert rows["plain_true_volume_error_mm3"].tolist() == [-1.0] * 4
    assert np.isinf(rows.loc["c1", "hd95_mm"])
    assert np.isnan(rows.loc["c2", "hd95_mm"])
    found = summarise(table)
    assert found["hd95_mm"]["mean"] == pytest.approx((0.95 + 0.0) / 2)  # a1: distances 0 and 1 mm
    assert (found["hd95_mm"]["n"], found["n_hd95_infinite"]) == (2, 1)
    assert (found["nsd_1mm"]["mean"], found["nsd_1mm"]["n"]) == (1.0, 2)
    assert "agatston" not in found  # no scans
    scored = table.assign(agatston=[1.0, 4.0, 2.0, 0.0], label_agatston=[1.0, 2.0, 0.0, 0.0], plain_agatston=0.0)
    score = summarise(scored)["agatston"]
    assert (score["bias"], score["median_absolute"]) == (1.0, 1.0)
    assert score["icc"]["value"] == pytest.approx(icc(np.array([[1, 1], [4, 2], [2, 0], [0, 0.0]])))


def test_strata_include_their_upper_limit(table):
    strata = {s["stratum"]: s for s in summarise(table)["thickness"]}
    assert list(strata) == ["≤ 1 mm", "1–2 mm", "2–4 mm", "4–6 mm", "> 6 mm"]
    assert (strata["≤ 1 mm"]["mean"], strata["1–2 mm"]["mean"]) == (1.0, 0.5)
    assert strata["≤ 1 mm"]["ci95"] == [None, None]  # one patient tells nothing about patients
    assert strata["4–6 mm"]["mean"] is None  # its scan has no lesion
    assert strata["4–6 mm"]["n"] == 0


def thicknesses(thick_dice: float, patients: int = 20) -> pd.DataFrame:
    """A thin and a thick scan of each patient, Dice of the thick ones lower or not."""
    rng = np.random.default_rng(1)
    row = series_row("s", "p", 1.0, series_metrics(mask(2), mask(2)))
    rows = [
        row
        | {"series_id": f"{mm}{k}", "patient_id": f"p{k}", "slice_thickness_mm": mm, "dice": mean + rng.uniform(0, 0.2)}
        for k in range(patients)
        for mm, mean in ((0.8, 0.6), (3.0, 0.6), (7.0, thick_dice))
    ]
    return pd.DataFrame(rows)


def test_the_weakest_stratum_is_named_only_where_it_is_established():
    weak = summarise(thicknesses(0.3))
    part = weakest_stratum(weak)
    assert part["stratum"] == "> 6 mm"
    assert part["against_others"]["value"] == pytest.approx(-0.3, abs=0.05)
    assert part["against_others"]["holm_p"] < 0.001
    assert weakest_stratum(summarise(thicknesses(0.59))) is None  # lower by 0.01, which may be chance
    assert weakest_stratum(summarise(thicknesses(0.3, patients=4))) is None
    uncorrected = {"mean": 0.3, "against_others": {"value": -0.2, "ci95": [-0.3, -0.1], "p": 0.02, "holm_p": 0.08}}
    assert weakest_stratum({"thickness": [uncorrected]}) is None
    old = {"thickness": [{k: v for k, v in p.items() if k != "against_others"} for p in weak["thickness"]]}
    assert weakest_stratum(old) is None


def test_every_measure_stands_in_every_stratum_of_the_edges_asked_for(table):
    found = summarise(table, thickness_strata=strata_from_edges([1.05, 6.0]))
    assert found["thickness_edges_mm"] == [1.05, 6.0]
    thin, middle, thick = found["thickness"]  # b1 | a1, c1 | c2
    assert [s["stratum"] for s in found["thickness"]] == ["≤ 1.05 mm", "1.05–6 mm", "> 6 mm"]
    assert [s["n_series"] for s in found["thickness"]] == [1, 2, 1]
    assert thin["metrics"].keys() == MEASURES.keys()
    means = {name: figure["mean"] for name, figure in middle["metrics"].items()}
    assert means["ppv"] == pytest.approx((0.5 + 0) / 2)  # the false alarm counts, as in the whole
    assert (means["sensitivity"], means["lesion_f1"]) == (0.5, 1.0)
    assert (means["volume_error_mm3"], means["absolute_volume_error_mm3"]) == (3.0, 3.0)
    assert means["hd95_mm"] == pytest.approx(0.95)
    assert (middle["n_lesion_free"], middle["n_false_alarm"]) == (1, 1)
    assert middle["volume_icc"]["value"] == pytest.approx(icc(np.array([[4.0, 4.0], [6.0, 0.0]])))
    assert thick["metrics"]["dice"]["mean"] is None


def test_masks_are_summarised_in_other_processes_alike():
    measured = [series_metrics(mask(n), mask(2)) for n in range(1, 5)]
    frame = series_table(
        [series_row(f"s{k}", f"p{k}", 1.0, measured[k], measured[0], None, measured[3]) for k in (1, 2)]
    )
    with Helpers(2, "evaluation.workers") as helpers:
        found = summarise(frame, each=helpers.results)
    assert json.dumps(found) == json.dumps(summarise(frame))
    assert list(found)[-2:] == ["plain", "uncalibrated"]


def test_figures_of_a_threshold_alone_stand_apart(table):
    found = summarise(table)
    assert found["plain"]["dice"]["mean"] == 1.0
    assert found["plain"]["n_both_empty"] == 4
    assert found["plain"]["ppv"]["mean"] is None
    result = table.drop(columns=[c for c in table if c.startswith("plain_")])
    assert "plain" not in summarise(result)


def test_figures_of_the_uncalibrated_network_stand_apart():
    rows = [
        series_row(name, name, 1.0, series_metrics(mask(2), mask(2)), None, 1.0, series_metrics(mask(3), mask(2)))
        for name in "ab"
    ]
    found = summarise(series_table(rows))
    assert (found["dice"]["mean"], found["uncalibrated"]["dice"]["mean"]) == (1.0, 0.8)  # 2·2 / (3 + 2)
    assert rows[0]["uncalibrated_volume_error_mm3"] == rows[0]["uncalibrated_volume_mm3"] - rows[0]["label_volume_mm3"]
    assert {c.removeprefix("uncalibrated_") for c in rows[0] if c.startswith("uncalibrated_")} == set(METRICS)
    assert "uncalibrated" not in summarise(series_table([series_row("a", "a", 1.0, series_metrics(mask(2), mask(2)))]))


def test_without_a_known_true_volume():
    row = series_row("a", "a", 1.0, series_metrics(mask(2), mask(2)))
    assert "true_volume" not in summarise(series_table([row]))
    assert "true_volume" not in summarise(pd.DataFrame([{**row, "true_volume_mm3": None}]))


def test_an_empty_table_is_refused(table):
    with pytest.raises(UserError, match="empty"):
        summarise(table.iloc[:0])


def test_a_summary_round_trips(table, tmp_path):
    summary = summarise(table, split="test", threshold=0.42)
    write_summary(summary, tmp_path / "test.json")
    assert (summary["split"], summary["threshold"]) == ("test", 0.42)
    assert json.loads((tmp_path / "test.json").read_text()) == summary


def test_files_of_before_are_read_with_the_names_of_now(table, tmp_path):
    """The plain mask had no prefix then, and what is the result now was `prior_…` and `protocol_prior`."""
    before = {name: f"prior_{name}" for name in METRICS} | {f"plain_{name}": name for name in METRICS}
    write_series_table(table.rename(columns=before), tmp_path / "dev.csv")
    write_series_table(table, tmp_path / "now.csv")
    pd.testing.assert_frame_equal(read_series_table(tmp_path / "dev.csv"), read_series_table(tmp_path / "now.csv"))
    now = {**summarise(table, threshold=0.3), "plain_threshold": 0.5}
    now["controls"] = {"mean_tokens": {"dice": 0.1, "plain": {"dice": 0.2}}}
    result = {name: now[name] for name in now["plain"]}
    old = {name: value for name, value in now.items() if name not in ("plain", "plain_threshold")}
    old |= {**now["plain"], "protocol_prior": result, "threshold": 0.5, "prior_threshold": 0.3}
    old["controls"] = {"mean_tokens": {"dice": 0.2, "protocol_prior": {"dice": 0.1}}}
    write_summary(old, tmp_path / "dev.json")
    write_summary(now, tmp_path / "now.json")
    assert read_summary(tmp_path / "dev.json") == read_summary(tmp_path / "now.json")
    assert read_summary(tmp_path / "now.json")["plain"]["dice"] == now["plain"]["dice"]
