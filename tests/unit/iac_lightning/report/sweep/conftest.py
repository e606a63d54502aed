"""A small sweep that nobody trained, analysed: two factors, two seeds, one cell that was not run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from iac_lightning.evaluation.ablation.ablation import analyse_ablation
from iac_lightning.evaluation.ablation.cells import Training
from iac_lightning.report.sweep.result import EVALUATED, CellResult, SweepResult
from tests.synthetic_sweep import invented

FACTORS = {"size": ("2×2×2", "4×2×2", "4×4×2"), "up": ("a", "b")}
HOLE = ("4×4×2", "b")


def swept(seeds: Sequence[int] = (0, 1), hole: tuple[str, str] | None = HOLE, patients: int = 10) -> SweepResult:
    """The sweep; Dice falls by 0.05 a size, b is 0.03 better."""
    cells, trainings = [], []
    for size, up in product(*FACTORS.values()):
        for seed in seeds:
            levels = {"size": size, "up": up}
            lacking = (size, up) == hole
            cells.append(
                CellResult(
                    name=f"{size}_{up}_{seed}",
                    kind="finetune",
                    levels=levels,
                    seed=seed,
                    state="failed" if lacking and seed else "not run" if lacking else EVALUATED,
                    reason="no memory" if lacking and seed else "",
                    seconds=None if lacking else 600.0,
                    parameters=None if lacking else 1_234_567,
                )
            )
            if not lacking:
                mean = 0.7 - 0.05 * FACTORS["size"].index(size) + 0.03 * (up == "b")
                key = (FACTORS["size"].index(size), FACTORS["up"].index(up), seed)
                table = invented(mean, key, patients=patients, seed_sd=0.003)
                trainings.append(Training(levels=levels, seed=seed, table=table))
    return SweepResult(
        name="tiny",
        question="Which size?",
        split="test",
        factors=FACTORS,
        cells=cells,
        ablation=analyse_ablation(trainings, FACTORS, seed=0, resamples=200),
        seed=0,
    )


@pytest.fixture(scope="session")
def sweep() -> SweepResult:
    """With a hole."""
    return swept()


@pytest.fixture(scope="session")
def nothing() -> SweepResult:
    """Planned, and none of it evaluated."""
    cells = [
        CellResult(name=f"{s}_{u}", kind="finetune", levels={"size": s, "up": u}, seed=0, state="not run")
        for s, u in product(*FACTORS.values())
    ]
    return SweepResult(name="tiny", question="Which?", split="dev", factors=FACTORS, cells=cells, ablation=None, seed=0)
