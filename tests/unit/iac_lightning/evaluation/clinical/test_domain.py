"""Whether a scan is like those that a model has learnt from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from iac_lightning.evaluation.clinical.domain import (
    Domain,
    ScanFacts,
    compare_with,
    region_features,
    span,
    training_domain,
)


def a_region(rng: np.random.Generator, level_hu: float = 35.0, bone: float = 0.1, noise_hu: float = 5.0) -> np.ndarray:
    hu = rng.normal(level_hu, noise_hu, (24, 20, 10))
    hu[rng.random(hu.shape) < bone] = 600
    return hu.astype(np.int16)


def facts_of(hu: np.ndarray, **other: object) -> ScanFacts:
    known = {"slice_thickness_mm": (5.0, 5.0), "spacing_mm": (0.5, 5.0), "manufacturer": "GE", "kernel": "soft"}
    return ScanFacts(features=region_features(hu), **{**known, **other})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def domain() -> Domain:
    """Forty scans of twenty patients, with 8 to 12 % bone."""
    rng = np.random.default_rng(0)
    scans = [
        facts_of(a_region(rng, bone=rng.uniform(0.08, 0.12)), slice_thickness_mm=(t, t), similarity=0.8)
        for t in np.linspace(1, 5, 40)
    ]
    return training_domain(
        scans,
        [f"p{k // 2}" for k in range(40)],
        n_patients=20,
        n_series=40,
        n_phantoms=0,
        n_labelled=40,
        n_labelled_phantoms=0,
        n_patients_unknown=0,
        window_hu=(-200.0, 1000.0),
    )


def test_features_by_hand() -> None:
    hu = np.full((10, 4, 5), 40, dtype=np.int16)  # 200 voxels
    hu[0] = -1000
    hu[1, 0, 0] = 130  # a class begins at its limit
    hu[::2, :, 1:] += 4
    found = region_features(hu)
    assert found["hu_p50"] == 40
    assert found["share_0"] == pytest.approx(20 / 200)
    assert found["share_6"] == pytest.approx(1 / 200)
    assert sum(value for name, value in found.items() if name.startswith("share_")) == pytest.approx(1)
    # most neighbours differ by 4 HU: half of the normal differences lie below 0.6745 √2 standard deviations
    assert found["noise_hu"] == pytest.approx(4 / (0.6745 * 2**0.5))
    assert region_features(np.full((4, 4, 4), -1000))["noise_hu"] == 0


def test_a_scan_like_the_training_scans_is_said_nothing_of(domain: Domain) -> None:
    found = compare_with(domain, facts_of(a_region(np.random.default_rng(1)), similarity=0.8))
    assert found["out_of_range"] == []
    assert found["distance"] <= found["largest_training_distance"]
    assert 0 <= found["percentile"] <= 100


@pytest.mark.parametrize(
    ("what", "change", "words"),
    [
        ("slice_thickness_mm", {"slice_thickness_mm": (4.0, 7.0)}, "slices of 4 to 7 mm (training scans: 1 to 5)"),
        ("in_plane_mm", {"spacing_mm": (0.96, 5.0)}, "pixels of 0.96 mm (training scans: 0.5)"),
        ("slice_spacing_mm", {"spacing_mm": (0.5, 2.5)}, "slices every 2.5 mm (training scans: 5)"),
        ("registration_similarity", {"similarity": 0.62}, "similarity 0.62 to the template (training scans: 0.8)"),
        ("manufacturer", {"manufacturer": "Siemens"}, "manufacturer Siemens is none of the training scans' (GE)"),
        ("kernel", {"kernel": "H60s"}, "kernel H60s is none of the training scans' (soft)"),
    ],
)
def test_what_lies_outside_is_named(domain: Domain, what: str, change: dict[str, object], words: str) -> None:
    scan = replace(facts_of(a_region(np.random.default_rng(1)), similarity=0.8), **change)  # type: ignore[arg-type]
    (found,) = compare_with(domain, scan)["out_of_range"]
    assert (found["what"], found["words"]) == (what, words)


def test_a_longer_name_of_the_same_maker_and_tenths_of_a_length_are_no_news(domain: Domain) -> None:
    scan = facts_of(
        a_region(np.random.default_rng(1)), manufacturer="GE MEDICAL SYSTEMS", slice_thickness_mm=(5.4, 5.4)
    )
    assert compare_with(domain, scan)["out_of_range"] == []


def test_a_region_of_another_kind_is_far_and_other_hu_are_named(domain: Domain) -> None:
    found = compare_with(domain, facts_of(a_region(np.random.default_rng(1), bone=0.5)))
    assert [entry["what"] for entry in found["out_of_range"]] == ["features"]
    assert found["percentile"] == 100
    shifted = compare_with(domain, facts_of(a_region(np.random.default_rng(1), level_hu=1035)))  # rescaled wrongly
    assert {entry["what"] for entry in shifted["out_of_range"]} == {"hu_p50", "hu_p99", "features"}


@pytest.mark.parametrize(("farthest", "percentile", "n_found"), [(1.01, 50.0, 0), (0.99, 100.0, 1)])
def test_far_is_farther_than_all_of_them(domain: Domain, farthest: float, percentile: float, n_found: int) -> None:
    scan = facts_of(a_region(np.random.default_rng(1)))
    root = np.sqrt([scan.features[name] for name in domain.center])
    deviations = (root - list(domain.center.values())) / list(domain.scale.values())
    distance = float((deviations**2).mean() ** 0.5)
    found = compare_with(replace(domain, distances=(0.5 * distance, farthest * distance)), scan)
    assert found["distance"] == pytest.approx(distance)
    assert (found["percentile"], len(found["out_of_range"])) == (percentile, n_found)


def test_without_registered_training_scans_a_low_similarity_is_still_said(domain: Domain) -> None:
    ranges = {name: pair for name, pair in domain.ranges.items() if name != "registration_similarity"}
    scan = facts_of(a_region(np.random.default_rng(1)), similarity=0.62)
    (found,) = compare_with(replace(domain, ranges=ranges), scan)["out_of_range"]
    assert found["words"] == "similarity 0.62 to the template (usual: 0.66 to 1)"


def test_scans_like_the_training_scans_are_far_as_seldom_as_is_said(domain: Domain) -> None:
    rng = np.random.default_rng(2)
    new = [facts_of(a_region(rng, bone=rng.uniform(0.08, 0.12))) for _ in range(200)]
    far = sum(any(e["what"] == "features" for e in compare_with(domain, scan)["out_of_range"]) for scan in new)
    assert far <= 14  # once in 41 times: 5 of 200, and hardly ever more than 14


def test_it_survives_json_and_what_is_none_is_refused(domain: Domain) -> None:
    record = json.loads(json.dumps(domain.to_dict()))
    assert Domain.from_dict(record) == domain
    wrong = [
        {},
        {"n_series": -1},
        {"ranges": {"hu_p50": [2, 1]}},
        {"ranges": []},
        {"scale": {**record["scale"], "noise_hu": 0}},
        {"center": {}},
        {"distances": [2.0, 1.0]},
        {"kernels": [1]},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match="training domain"):
            Domain.from_dict({**record, **change} if change else {})


def test_ranges_in_words() -> None:
    assert span(-200, 1204.4) == "−200 to 1204"
    assert span(0.4004, 0.4) == "0.4"


def test_what_it_has_learnt_from_in_a_word(domain: Domain) -> None:
    assert (domain.learnt_from, domain.only_phantoms) == ("patients", False)
    mixed = replace(domain, n_phantoms=40, n_series=60, n_labelled_phantoms=40)  # pre-trained on patients
    assert (mixed.learnt_from, mixed.only_phantoms) == ("both", True)
