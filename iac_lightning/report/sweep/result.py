"""What a sweep gave: its planned runs with what became of them, and the effects of its factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from iac_lightning.evaluation.ablation.ablation import Ablation
from iac_lightning.evaluation.ablation.cells import Combination

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
        fold: that it held out; None: the development split.
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
    fold: int | None = None


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
        caveat: what the numbers cannot say, by the sweep's file.
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
