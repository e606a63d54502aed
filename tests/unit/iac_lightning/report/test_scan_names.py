from __future__ import annotations

from iac_lightning.report.scan_names import scan_names


def test_names_are_the_same_each_time_and_say_nothing_of_whose_scan_it_is():
    names = scan_names(["P0001_S1", "P0002_S1"], "f00")
    assert names == scan_names(["P0002_S1", "P0001_S1", "P0003_S9"][:2], "f00")
    assert all(
        name.startswith("scan ") and len(name) == 11 and series[:5] not in name for series, name in names.items()
    )
    assert names["P0001_S1"] != scan_names(["P0001_S1"], "other")["P0001_S1"]


def test_names_that_would_be_the_same_are_longer(monkeypatch):
    monkeypatch.setattr("iac_lightning.report.scan_names._SHORTEST", 1)
    names = scan_names([f"S{k}" for k in range(40)], "f00")
    assert len(set(names.values())) == 40
    assert len(names["S0"]) > len("scan a")
