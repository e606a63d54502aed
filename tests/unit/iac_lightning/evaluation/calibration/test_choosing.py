"""What an operating point is chosen for, and what it costs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_modules.errors import UserError
from iac_lightning.config.keys import choices
from iac_lightning.evaluation.calibration.aims import Aim, Scans, figures, merit
from iac_lightning.evaluation.calibration.choosing import choose, choose_point, folds
from iac_lightning.evaluation.calibration.counts import COUNTED, LEAST_LESIONS_MM3, ScanCounts
from iac_lightning.evaluation.calibration.operating_point import AIMS, RULES
from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID
from iac_lightning.evaluation.statistics.strata import strata_from_edges

STRATA = strata_from_edges([2.0])
N_VOLUMES, N_STEPS = len(LEAST_LESIONS_MM3), len(CALIBRATED_GRID)
LOW, MIDDLE, HIGH = (int(np.searchsorted(CALIBRATED_GRID, t)) for t in (0.1, 0.5, 0.9))


def scan(low: tuple[int, ...], high: tuple[int, ...], label: int, lesions: int) -> ScanCounts:
    """Counts that are `low` up to a threshold of 0.5, `high` up to 0.9 and then nothing, at every rule and volume.

    One lesion, if there is any, is small.
    """
    counts = np.zeros((len(RULES), N_VOLUMES, N_STEPS, len(COUNTED)), np.int32)
    counts[..., : MIDDLE + 1, :], counts[..., MIDDLE + 1 : HIGH + 1, :] = low, high
    return ScanCounts(
        counts=counts,
        uncalibrated=np.array(high, np.int32),
        n_label_voxels=label,
        n_lesions=lesions,
        n_small=min(lesions, 1),
        n_unseen=1,
        slice_thickness_mm=1.0,
    )


ILL = scan(low=(60, 10, 51, 1, 1, 1), high=(10, 5, 2, 1, 1, 0), label=10, lesions=1)
"""At low thresholds: all of the lesion and fifty false voxels, each alone. At high ones: half of it, and one more."""
CLEAR = scan(low=(12, 10, 2, 2, 2, 1), high=(5, 5, 1, 1, 1, 0), label=10, lesions=2)
"""At low thresholds both lesions, at high ones one."""
WELL = scan(low=(4, 0, 4, 0, 0, 0), high=(0, 0, 0, 0, 0, 0), label=0, lesions=0)
"""No lesion; at low thresholds a false alarm."""


def point(scans: list[ScanCounts], aim: str, most_false: float = 1.0, **more: Any) -> dict[str, Any]:
    patients = more.pop("patients", [f"p{k}" for k in range(len(scans))])
    limits = {name: more.pop(name) for name in ("keep_from_mm3",) if name in more}
    found = choose_point(scans, patients, 0, STRATA, Aim(name=aim, most_false=most_false, **limits), **more)
    json.dumps(found, allow_nan=False)
    return found


def side(found: dict[str, Any]) -> str:
    return "low" if found["operating_point"]["threshold"] <= CALIBRATED_GRID[MIDDLE] else "high"


def test_each_aim_wants_its_own_threshold() -> None:
    assert tuple(AIMS) == choices()["evaluation.operating_point"]
    clear = [CLEAR] * 4
    assert side(point(clear, "dice")) == "low"  # 20/22 against 10/15
    assert side(point([*clear, *[WELL] * 2], "dice")) == "low"  # at whatever price
    assert side(point([*clear, *[WELL] * 2], "balanced")) == "high"  # 4 × 0.909 against 4 × 0.667 + 2 × 1
    assert side(point([CLEAR, CLEAR, *[ILL] * 3], "lesion_f1")) == "high"
    assert side(point([CLEAR, CLEAR], "sensitivity_at_fp", 0.0)) == "low"
    assert side(point([CLEAR, CLEAR, *[WELL] * 2], "sensitivity_at_fp", 2.0)) == "low"  # 2 false ones a scan
    assert side(point([CLEAR, CLEAR, *[WELL] * 2], "sensitivity_at_fp", 1.9)) == "high"


def test_every_patient_counts_alike_for_balanced() -> None:
    """Lesion-free scans of one patient count once: 0.91 + 0.91 + 0 against 0.67 + 0.67 + 1."""
    scans, patients = [CLEAR, CLEAR, CLEAR, CLEAR, WELL, WELL, WELL], ["a", "b", "c", "d", "e", "e", "e"]
    assert side(point(scans, "balanced", patients=patients)) == "high"
    fewer = [*["a", "b", "c", "d", "f", "g", "h"]]
    assert point(scans, "balanced", patients=fewer)["operating_point"]["fitted"]["balanced"] == pytest.approx(
        (4 * 2 / 3 + 3) / 7
    )
    assert point(scans, "balanced", patients=patients)["operating_point"]["fitted"]["balanced"] == pytest.approx(
        (4 * 2 / 3 + 1) / 5
    )


def test_the_price_is_told_by_hand() -> None:
    found = point([ILL, CLEAR, WELL, WELL], "dice")["operating_point"]
    low = dict(found["fitted"])
    assert low["dice"] == pytest.approx((20 / 70 + 20 / 22) / 2)
    assert low["lesion_f1"] == pytest.approx((2 * (1 / 51) / (1 + 1 / 51) + 1) / 2)
    assert low["lesion_sensitivity"] == 1.0
    assert (low["small_lesion_sensitivity"], low["n_small_lesions"]) == (1.0, 2)
    assert low["false_components_per_scan"] == pytest.approx((50 + 0 + 4 + 4) / 4)
    assert (low["n_false_alarm"], low["n_lesion_free"], low["n_series"]) == (2, 2, 4)
    by_name = {row["name"]: row for row in found["alternatives"]}
    balanced = by_name["for balanced"]
    assert balanced["cross_validated"]["n_false_alarm"] == 0
    assert balanced["fitted"]["dice"] == pytest.approx((10 / 20 + 10 / 15) / 2)
    assert balanced["fitted"]["small_lesion_sensitivity"] == 0.0
    assert set(by_name) >= {
        "for lesion_f1",
        "without a least lesion",
        "threshold alone",
        "without the annotation protocol",
    }
    plain = by_name["uncalibrated, at probability 0.5"]
    assert plain["cross_validated"]["dice"] == balanced["fitted"]["dice"]


def with_small_ones_dropped(counts: ScanCounts) -> ScanCounts:
    """From 2 mm³ on the single false voxels of low thresholds are gone."""
    changed = counts.counts.copy()
    changed[:, 2:, : MIDDLE + 1] = (10, 10, 1, 1, 1, 1)
    return replace(counts, counts=changed)


def test_least_lesion_and_threshold_are_chosen_together() -> None:
    scans = [with_small_ones_dropped(ILL)] * 5
    for aim in AIMS:
        found = point(scans, aim)["operating_point"]
        assert (found["least_lesion_mm3"], found["rule"]) == (2.0, "protocol"), aim
        assert found["threshold"] <= CALIBRATED_GRID[MIDDLE]
        assert found["cross_validated"]["dice"] == 1.0
    assert point([CLEAR] * 5, "dice")["operating_point"]["least_lesion_mm3"] == 0  # of equals the least


def test_components_from_a_volume_on_are_kept_and_the_price_of_that_is_told() -> None:
    found = point([with_small_ones_dropped(ILL)] * 5, "dice", keep_from_mm3=1.9)["operating_point"]
    assert (found["least_lesion_mm3"], found["keep_lesions_from_mm3"]) == (0.0, 1.9)
    (dropped,) = (row for row in found["alternatives"] if "may be dropped" in row["name"])
    assert (dropped["least_lesion_mm3"], dropped["cross_validated"]["dice"]) == (2.0, 1.0)
    assert {row["least_lesion_mm3"] for row in found["alternatives"] if row["name"].startswith("for ")} == {0.0}
    assert not any(
        "may be dropped" in row["name"] for row in point([ILL] * 5, "dice")["operating_point"]["alternatives"]
    )


def test_without_the_protocol_only_where_that_is_left_open() -> None:
    bright = CLEAR.counts.copy()
    bright[list(RULES).index("protocol")] = 0  # the labels are dark
    scans = [replace(CLEAR, counts=bright)] * 4
    assert point(scans, "dice")["operating_point"]["rule"] == "protocol"
    assert point(scans, "dice", any_rule=True)["operating_point"]["rule"] == "none"


def test_figures_are_of_patients_who_had_no_part_in_the_choice() -> None:
    """One patient wants a low threshold, the others a high one; at its own it would do better than at theirs."""
    odd = scan(low=(10, 10, 1, 1, 1, 0), high=(10, 0, 1, 0, 0, 0), label=10, lesions=1)
    usual = scan(low=(10, 0, 1, 0, 0, 0), high=(10, 10, 1, 1, 1, 0), label=10, lesions=1)
    found = point([odd, *[usual] * 4], "dice")["operating_point"]
    assert found["cross_validated"]["dice"] == pytest.approx(0.8)
    alone = point([odd, usual], "dice")["operating_point"]
    assert (alone["fitted"]["dice"], alone["cross_validated"]["dice"]) == (0.5, 0.0)
    assert point([odd], "dice")["operating_point"]["cross_validated"] is None


def test_folds_keep_patients_together_and_spread_lesions() -> None:
    patients = [f"p{k // 2}" for k in range(40)]
    scans = Scans.stacked([CLEAR if k < 14 else WELL for k in range(40)], patients)
    fold = folds(scans, 0)
    assert fold is not None
    assert (fold[::2] == fold[1::2]).all()
    assert set(fold[:14]) == set(fold[14:]) == set(range(5))
    other = folds(scans, 1)
    assert other is not None
    assert (fold != other).any()
    assert folds(Scans.stacked([CLEAR, WELL], ["a", "b"]), 0) is None


def test_what_was_not_counted_is_not_chosen() -> None:
    counts = CLEAR.counts.copy()
    counts[..., : MIDDLE + 1, :] = -1
    scans = Scans.stacked([replace(CLEAR, counts=counts), CLEAR], ["a", "b"])
    for name in AIMS:
        aim = Aim(name=name, most_false=1.0)
        assert np.isneginf(merit(scans, aim)[..., : MIDDLE + 1]).all()
        assert choose(scans, aim, [(0, 0), (1, 2)], 0)[2] > MIDDLE
    curve = point([replace(CLEAR, counts=counts), CLEAR], "dice")["operating_point"]["froc"]
    assert min(curve["threshold"]) > CALIBRATED_GRID[MIDDLE]


def test_a_mask_of_everything_does_not_count_as_finding_lesions() -> None:
    """It touches both lesions with its one component, without a false one."""
    greedy = scan(low=(1000, 10, 1, 1, 2, 0), high=(10, 10, 2, 1, 1, 0), label=10, lesions=2)
    for name in ("lesion_f1", "sensitivity_at_fp"):
        assert side(point([greedy] * 3, name)) == "high", name


def test_froc_falls_with_the_threshold() -> None:
    curve = point([ILL, CLEAR, WELL], "balanced")["operating_point"]["froc"]
    assert curve["false_components_per_scan"] == pytest.approx([54 / 3, 1 / 3, 0])
    assert curve["lesion_sensitivity"] == pytest.approx([1, 2 / 3, 0])


def test_no_lesion_no_choice() -> None:
    with pytest.raises(UserError, match="none of the 2 development scans has a lesion"):
        point([WELL, WELL], "balanced")
    empty = scan(low=(0,) * 6, high=(0,) * 6, label=0, lesions=0)
    assert figures(Scans.stacked([empty], ["a"]).at(np.zeros((1, 6), np.int32)))["balanced"] == 1.0


def thin_and_thick(n_patients: int) -> tuple[list[ScanCounts], list[str]]:
    """A thin scan of each patient, which wants a low threshold, and a thick one, which wants a high one."""
    good, bad = (10, 10, 1, 1, 1, 0), (10, 2, 1, 1, 1, 0)
    thin = scan(low=good, high=bad, label=10, lesions=1)
    thick = replace(scan(low=bad, high=good, label=10, lesions=1), slice_thickness_mm=5.0)
    return [thin, thick] * n_patients, [f"p{k // 2}" for k in range(2 * n_patients)]


def test_strata_have_thresholds_of_their_own_where_that_helps_and_figures_are_of_these() -> None:
    """Three folds of 2 patients are judged by 10 others, who choose by stratum; two of 3 by 9, who are too few."""
    scans, patients = thin_and_thick(12)
    found = point(scans, "dice", patients=patients)
    chosen = found["operating_point"]
    for by_thickness in (chosen["thickness"], found["plain_thickness"]):
        assert by_thickness["used"]
        low, high = (s["threshold"] for s in by_thickness["strata"])
        assert low <= 0.5 < high
    assert chosen["fitted"]["dice"] == found["plain_score"] == 1.0
    assert chosen["cross_validated"]["dice"] == pytest.approx((6 * 1.0 + 6 * (1.0 + 0.2) / 2) / 12)
    (alone,) = (row for row in chosen["alternatives"] if row["name"] == "threshold alone")
    assert (alone["thickness"]["used"], alone["fitted"]["dice"]) == (True, 1.0)


def test_false_components_are_limited_over_all_strata() -> None:
    scans, patients = thin_and_thick(3)
    limited = point(scans, "sensitivity_at_fp", patients=patients)["operating_point"]["thickness"]
    assert not limited["used"]
    assert "limited over all scans" in limited["why"]


def test_no_stratum_takes_a_threshold_that_the_scans_together_may_not() -> None:
    """Thick scans are lesion-free but for ten; nothing was counted of them at low thresholds."""
    thin = scan(low=(10, 10, 1, 1, 1, 0), high=(10, 2, 1, 1, 1, 0), label=10, lesions=1)
    empty, faint = (scan(low=(9, 0, 9, 0, 0, 0), high=(0,) * 6, label=n, lesions=n) for n in (0, 1))
    for counts in (empty.counts, faint.counts):
        counts[..., :LOW, :] = -1
    thick = [replace(s, slice_thickness_mm=5.0) for s in [faint] * 10 + [empty] * 12]
    strata = point([*[thin] * 12, *thick], "balanced")["operating_point"]["thickness"]["strata"]
    assert [s["n_patients"] for s in strata] == [12, 10]
    assert strata[1]["threshold"] > 0.5
