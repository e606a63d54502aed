"""A slice of `make fuzz`, and that the instrument itself notices what is wrong."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.errors import UserError
from tests.fuzz import nifti_inputs, run, templates
from tests.fuzz.judging import BAD, Trial, Verdict, Wanted, judge
from tests.fuzz.pool import Case, judged, run_case

SLICE = 0.08


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> None:
    templates.make(tmp_path_factory.mktemp("templates"))


@pytest.mark.usefixtures("originals")
def test_nothing_of_a_slice_is_silently_wrong_raw_or_hangs() -> None:
    cases = [case for kind, count in run.COUNTS.items() for case in run.cases(11, [kind])[: round(count * SLICE)]]
    assert len(cases) >= 40
    outcomes = list(judged(cases, run.MAKERS, workers=1, limit_s=20))
    assert len(outcomes) == len(cases)
    bad = [run.line(outcome) for outcome in outcomes if outcome.verdict in BAD]
    assert not bad, "\n".join(bad)


def test_at_least_five_hundred_inputs_and_each_damage_among_them() -> None:
    assert sum(run.COUNTS.values()) >= 500
    assert all(run.COUNTS[kind] >= len(makers) for kind, makers in run.MAKERS.items())


def test_a_seed_makes_the_same_input_again(tmp_path: Path) -> None:
    for k, seed in enumerate((4, 4, 5)):
        (tmp_path / str(k)).mkdir()
        run_case(Case("nifti", 9, seed), run.MAKERS, tmp_path / str(k))
    first, again, other = ((tmp_path / str(k) / "scan.nii.gz").read_bytes() for k in range(3))
    assert first[12:] == again[12:]  # the time stands before
    assert first[12:] != other[12:]


# --- broken readers ---------------------------------------------------------------------------------------------


def ordinary(rng: np.random.Generator, folder: Path) -> Trial:
    return nifti_inputs.padded(rng, folder)


def judged_with(reader: Any, maker: Any, monkeypatch: pytest.MonkeyPatch, **pool: Any) -> tuple[Verdict, str]:
    monkeypatch.setattr(nifti_inputs, "read_scan", reader)
    (outcome,) = judged([Case("kind", 0, 0)], {"kind": [maker]}, **pool)
    return outcome.verdict, outcome.detail


def test_readers_that_are_wrong_without_a_word_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    read = nifti_inputs.read_scan
    wrong = {
        "HU": lambda scan: replace(scan, hu=scan.hu + np.int16(40)),
        "instead": lambda scan: scan.crop(scan.grid.center_ras_mm, (40.0, 40.0, 30.0)),
        "thickness": lambda scan: replace(scan, slice_thickness_mm=3.0),
        "kernel": lambda scan: replace(scan, kernel="H70h"),
        "slices along": lambda scan: replace(scan, slice_axis=0),
        "voxels of other": lambda scan: replace(scan, hu=scan.hu[::-1].copy()),
    }
    for words, change in wrong.items():
        verdict, detail = judged_with(lambda path, change=change: change(read(path)), ordinary, monkeypatch)
        assert verdict is Verdict.SILENT, detail
        assert words in detail
    assert judged_with(read, ordinary, monkeypatch) == (Verdict.RIGHT, "")


def test_readers_that_crash_die_or_hang_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def crashes(path: Path) -> None:
        raise KeyError("x")

    def refuses(path: Path) -> None:
        raise UserError(f"{path}: is not to my taste")

    def says_nothing(path: Path) -> None:
        raise UserError("")

    def takes_all(path: Path) -> None:
        np.ones(2**40)

    verdict, detail = judged_with(crashes, ordinary, monkeypatch)
    assert verdict is Verdict.RAW
    assert "KeyError" in detail
    assert judged_with(refuses, ordinary, monkeypatch) == (Verdict.REFUSED, "…/scan.nii.gz: is not to my taste")
    assert judged_with(says_nothing, ordinary, monkeypatch)[0] is Verdict.RAW
    assert judged_with(takes_all, ordinary, monkeypatch)[0] is Verdict.RAW
    assert judged_with(lambda path: os._exit(3), ordinary, monkeypatch)[1] == "the process died (exit status 3)"
    assert judged_with(lambda path: time.sleep(60), ordinary, monkeypatch, limit_s=1)[0] is Verdict.HANG


def test_inputs_after_a_hang_are_judged_too() -> None:
    def hangs(rng: np.random.Generator, folder: Path) -> Trial:
        return Trial(lambda: time.sleep(60), lambda _: "")

    def fine(rng: np.random.Generator, folder: Path) -> Trial:
        return Trial(lambda: 1, lambda _: "")

    cases = [Case("kind", k, 0) for k in range(4)]
    outcomes = judged(cases, {"kind": [hangs, fine]}, workers=2, limit_s=4)
    assert sorted((o.case.number, o.verdict) for o in outcomes) == [
        (0, Verdict.HANG),
        (1, Verdict.RIGHT),
        (2, Verdict.HANG),
        (3, Verdict.RIGHT),
    ]


def test_a_warning_is_enough_only_where_it_is_about_the_damage() -> None:
    def trial(wanted: Wanted, *said: str) -> Trial:
        usual = ("the scan shows 88 % of the region",)
        return Trial(lambda: 1, lambda _: "other", wanted, lambda _: said, usual, "thickness")

    assert judge(trial(Wanted.HONESTY, "the thickness is a guess"))[0] is Verdict.WARNED
    assert judge(trial(Wanted.HONESTY, "the kernel is unknown"))[0] is Verdict.SILENT
    assert judge(trial(Wanted.HONESTY, "the scan shows 88 % of the region"))[0] is Verdict.SILENT
    assert judge(trial(Wanted.REFUSAL, "the thickness is a guess"))[0] is Verdict.SILENT
    assert judge(trial(Wanted.VALUES, "the thickness is a guess"))[0] is Verdict.SILENT
