"""Trains as `iac pretrain` and `iac finetune` do, but a loss is NaN in one process only.

    python tests/integration/diverging.py STEP RANK EXPERIMENT key=value …

Ends with status 2 and the message on standard error, as `iac` does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor

from data_modules.errors import UserError
from iac_lightning.config.reading import load_experiment
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.workflows.train import train


def main(step: int, rank: int, experiment: Path, settings: list[str]) -> int:
    real = ExperimentModule.step_loss

    def step_loss(self: ExperimentModule, loss: Tensor, batch_idx: int) -> Tensor:
        broken = self.global_rank == rank and self.global_step + 1 == step
        return real(self, loss * float("nan") if broken else loss, batch_idx)

    ExperimentModule.step_loss = step_loss  # type: ignore[method-assign]
    try:
        train(load_experiment(experiment, settings))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
