from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from iac_lightning.evaluation.statistics.two_level import Draws
from iac_lightning.report.sweep.answer import caveats, established, seed_remark, source, sureness, sweep_answer
from iac_lightning.report.sweep.result import CellResult, SweepResult
from tests.unit.iac_lightning.report.sweep.conftest import swept


def test_the_answer_names_what_is_sure_first(sweep: SweepResult) -> None:
    assert sweep_answer(sweep) == ["Highest Dice, and established: 2×2×2 (size), b (up)."]
    lead = sweep.ablation.leads["up"]
    assert established(lead.lead)
    assert sureness(sweep, lead.lead) == "established"
    chance = replace(lead, lead=replace(lead.lead, adjusted_p=0.06))
    unsure = replace(sweep, ablation=replace(sweep.ablation, leads={"up": chance, "size": None}))
    assert sureness(unsure, chance.lead) == "may be chance"
    assert sweep_answer(unsure) == [
        "Highest Dice here, but the lead over the second may be chance: b (up).",
        "Cannot be answered yet, because too few cells are there: size.",
    ]


def test_an_interval_with_zero_establishes_nothing(sweep: SweepResult) -> None:
    lead = sweep.ablation.leads["up"].lead
    assert not established(replace(lead, low=-0.01))


def test_one_seed_is_about_its_networks() -> None:
    once = swept(seeds=(0,), hole=None)
    assert sweep_answer(once)[0].startswith("Highest Dice beyond chance of patients, of networks of a single seed: ")
    assert sureness(once, once.ablation.leads["up"].lead) == "for these networks"
    assert caveats(once) == [seed_remark(once.ablation.sample.draws)]


def test_source(sweep: SweepResult, nothing: SweepResult) -> None:
    assert source(sweep) == (
        "test split, 10 of 12 trainings (seeds 0, 1) in 5 cells, 18 scans with lesions of 9 patients; resamples from "
        "seed 0"
    )
    assert source(nothing) == "dev split, 0 of 6 trainings (seed 0); resamples from seed 0"
    assert sweep_answer(nothing) == ["No answer yet: none of the 6 trainings was evaluated on the dev split."]


def test_caveats(sweep: SweepResult, nothing: SweepResult) -> None:
    assert caveats(replace(sweep, caveat="Few steps.")) == [
        "Few steps.",
        "2 of 12 trainings have no result (1 not run, 1 failed); see the design.",
        "Size is averaged over 1 of 2 combinations of the other factors, those in which all its levels are there.",
        "Up is averaged over 2 of 3 combinations of the other factors, those in which all its levels are there.",
    ]
    assert caveats(nothing) == ["6 of 6 trainings have no result (6 not run); see the design."]
    before = CellResult(name="p", kind="pretrain", levels={}, seed=0, state="trained")
    shared = replace(sweep, cells=[before, *(replace(cell, needs=("p",)) for cell in sweep.cells)])
    assert caveats(shared)[-1].startswith("All seeds of a cell start from one pre-training")
    assert "There are no intervals" not in caveats(shared)[-1]
    assert (
        caveats(swept(patients=4, hole=None))[-1] == "4 patients: too few for an interval, so nothing is established."
    )


@pytest.mark.parametrize(
    ("n_seeds", "expected"),
    [
        ((1, 1), "Every cell was trained with one seed, so intervals cover patients only"),
        ((2, 1), "rests on 1 degree of freedom, which is little, and widens them. 1 of 2 cells was trained once and "),
        ((2, 2), "rests on 2 degrees of freedom, which is little, and widens them."),
        ((4, 4, 1, 1), "rests on 6 degrees of freedom. 2 of 4 cells were trained once and borrow the spread"),
    ],
)
def test_what_intervals_cover(n_seeds: tuple[int, ...], expected: str) -> None:
    draws = Draws(
        estimate=np.zeros((len(n_seeds), 1)),
        resampled=np.zeros((1, len(n_seeds), 1)),
        trainings=np.zeros((sum(n_seeds), 1)),
        n_seeds=n_seeds,
        seed_df=sum(n_seeds) - len(n_seeds),
    )
    assert expected in seed_remark(draws)
