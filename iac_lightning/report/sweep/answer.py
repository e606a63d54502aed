"""What a sweep gave, and what its report says first: the answer in words, and what it cannot say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from iac_lightning.evaluation.ablation.ablation import Ablation
from iac_lightning.evaluation.ablation.cells import Combination
from iac_lightning.evaluation.ablation.effects import Effect, complete_contexts
from iac_lightning.evaluation.statistics.two_level import seed_remark
from iac_lightning.evaluation.tables.comparison import SIGNIFICANT

EVALUATED = "evaluated"


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """A planned run of a sweep.

    Attributes:
        name: of the run.
        kind: ``finetune`` or ``pretrain``.
        levels: factor to level.
        seed: of the run.
        state: ``evaluated``, ``trained``, ``failed``, ``begun`` or ``not run``.
        reason: why it failed.
        seconds: training time; None where unknown.
        parameters: trained weights; None where unknown.
        needs: names of the pre-trainings it starts from.
    """

    name: str
    kind: str
    levels: Mapping[str, str]
    seed: int
    state: str
    reason: str = ""
    seconds: float | None = None
    parameters: int | None = None
    needs: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """A sweep with what it gave.

    Attributes:
        name: of the sweep.
        question: what it asks.
        split: on which its cells are compared.
        factors: factor to its levels.
        cells: all planned runs.
        ablation: of the evaluated ones; None while there are none.
        seed: of the resamples.
        caveat: what the figures cannot say, by the sweep's file.
    """

    name: str
    question: str
    split: str
    factors: Mapping[str, Sequence[str]]
    cells: Sequence[CellResult]
    ablation: Ablation | None = field(repr=False)
    seed: int
    caveat: str = ""

    @property
    def trainings(self) -> list[CellResult]:
        """The planned fine-tunings and baselines."""
        return [cell for cell in self.cells if cell.kind != "pretrain"]

    @property
    def evaluated(self) -> list[CellResult]:
        """Those with a result."""
        return [cell for cell in self.trainings if cell.state == EVALUATED]

    def of(self, combination: Combination) -> list[CellResult]:
        """The planned trainings of a combination of levels."""
        return [c for c in self.trainings if tuple(c.levels[name] for name in self.factors) == combination]

    @property
    def combinations(self) -> list[Combination]:
        """The whole grid of levels, whether planned or not."""
        return list(product(*self.factors.values()))


def source(sweep: SweepResult) -> str:
    """What figures and tables were taken from."""
    planned = sweep.trainings
    seeds = sorted({c.seed for c in planned})
    words = f"{sweep.split} split, {len(sweep.evaluated)} of {len(planned)} trainings ({_seeds(seeds)})"
    if sweep.ablation:
        sample = sweep.ablation.sample
        words += f" in {len(sample.cells)} cells, {sample.n_scans} scans with lesions of {sample.n_patients} patients"
    return f"{words}; resamples from seed {sweep.seed}"


def established(effect: Effect) -> bool:
    """Whether interval (patients and seeds) and corrected test (patients) agree that it is more than chance."""
    return effect.excludes_zero and effect.adjusted_p < SIGNIFICANT


def sureness(sweep: SweepResult, effect: Effect) -> str:
    """In two or three words; a sweep with one seed cannot establish what a factor does."""
    if not established(effect):
        return "may be chance"
    return "established" if _repeated(sweep) else "for these networks"


def answer(sweep: SweepResult) -> list[str]:
    """Which level is best for each factor and whether that is sure, in a sentence or two."""
    if not sweep.ablation:
        return [
            f"No answer yet: none of the {len(sweep.trainings)} trainings was evaluated on the {sweep.split} split."
        ]
    sure: list[str] = []
    unsure: list[str] = []
    unknown: list[str] = []
    for factor, found in sweep.ablation.leads.items():
        if found is None:
            unknown.append(factor)
        else:
            (sure if established(found.lead) else unsure).append(f"{found.best.level} ({factor})")
    sentences = []
    if sure:
        how = ", and established" if _repeated(sweep) else " beyond chance of patients, of networks of a single seed"
        sentences.append(f"Highest Dice{how}: {', '.join(sure)}.")
    if unsure:
        sentences.append(f"Highest Dice here, but the lead over the second may be chance: {', '.join(unsure)}.")
    if unknown:
        sentences.append(f"Cannot be answered yet, because too few cells are there: {', '.join(unknown)}.")
    return sentences


def caveats(sweep: SweepResult) -> list[str]:
    """What the figures cannot say: the file's word, missing trainings, few seeds or patients, incomplete averages."""
    found = [sweep.caveat] if sweep.caveat else []
    lacking = [c for c in sweep.trainings if c.state != EVALUATED]
    if lacking:
        states = list(dict.fromkeys(c.state for c in lacking))
        counts = ", ".join(f"{sum(c.state == s for c in lacking)} {s}" for s in states)
        found.append(f"{len(lacking)} of {len(sweep.trainings)} trainings have no result ({counts}); see the design.")
    if not sweep.ablation:
        return found
    for factor in sweep.ablation.levels:
        contexts, levels, total = complete_contexts(sweep.ablation.source(factor), factor)
        never = [level for level in sweep.ablation.source(factor).factors[factor] if level not in levels]
        if never:
            found.append(f"No cell of {factor} {', '.join(never)} is there.")
        if len(contexts) < total and len(levels) > 1:
            found.append(
                f"{factor[:1].upper()}{factor[1:]} is averaged over {len(contexts)} of {total} combinations of the "
                "other factors, those in which all its levels are there."
                if contexts
                else f"The levels of {factor} cannot be compared: no combination of the other factors has them all."
            )
    if not sweep.ablation.sample.draws.seed_df:
        found.append(seed_remark(sweep.ablation.sample.draws))
    elif any(_shares_pretraining(sweep.of(c)) for c in sweep.combinations):
        found.append(
            "All seeds of a cell start from one pre-training, so intervals do not cover what another pre-training "
            "would change."
        )
    if sweep.ablation.sample.n_patients < 2:
        found.append("One patient with lesions does not tell how patients differ: there are no intervals.")
    return found


def _shares_pretraining(cells: Sequence[CellResult]) -> bool:
    starts = [name for cell in cells for name in cell.needs]
    return len(set(starts)) < len(starts)


def _repeated(sweep: SweepResult) -> bool:
    return sweep.ablation is not None and sweep.ablation.sample.draws.seed_df > 0


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
