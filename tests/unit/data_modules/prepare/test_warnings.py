from __future__ import annotations

from data_modules.prepare.warnings import kind, summarise_warnings, warnings_sentence


def test_a_kind_names_nothing_of_one_scan() -> None:
    assert kind("several kernels in one series: A, B") == "several kernels in one series"
    assert kind("12 labelled voxels lie outside the region") == "… labelled voxels lie outside the region"
    assert kind("spacing between slices changes (2.00 to 4.50 mm): every 2 mm") == (
        "spacing between slices changes (… to … mm)"
    )


def test_scans_are_counted_once_a_kind() -> None:
    warnings = [("3 slices missing", "5 slices missing"), ("7 slices missing", "tilt: 4"), ("tilt: 2",), ("odd",), ()]
    found = summarise_warnings(warnings)
    assert found == {
        "n_series": 5,
        "n_with_warnings": 4,
        "kinds": [["tilt", 2], ["… slices missing", 2], ["odd", 1]],
    }
    assert warnings_sentence(found) == (
        "4 of the 5 evaluated scans carry warnings of preparation (“…” stands for a number of each scan): tilt (2); "
        "… slices missing (2); odd (1)."
    )
    many = summarise_warnings([tuple("abcde")])
    assert warnings_sentence(many).endswith("a (1); b (1); c (1); and 2 other kinds.")
    assert warnings_sentence(summarise_warnings([(), ()])) == (
        "None of the 2 evaluated scans carries a warning of its preparation."
    )
