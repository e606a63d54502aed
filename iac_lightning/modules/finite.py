"""A training whose numbers are no numbers any more ends there, and none of them is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from data_modules.errors import UserError
from iac_lightning.config.batching import learning_rate, training_steps, updates_per_epoch
from iac_lightning.modules.checkpoint import LEARNT, load_checkpoint, not_finite
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.modules.optimisers import schedule_factor
from iac_lightning.runs.directory import Run

SKIPPED_IN_A_ROW = 50
"""Updates that 16-mixed may leave out one after the other. Its scaler halves the scale at each, and begins at 65536: an
ordinary search for the scale takes some twenty."""

_NEVER = 2**62


class NotFiniteError(UserError):
    """A loss, a gradient or a weight is NaN or infinite."""


class FiniteGuard(Callback):
    """Stops a training at a loss, gradient or weight that is not finite, before a checkpoint could hold it.

    Losses and gradient norms stay on the device, and are looked at every `trainer.log_every_n_steps` steps, before
    validation, before each checkpoint and at the end: to look at every step would make the host wait for the GPU. All
    ranks decide alike, on what any of them has seen, so that none waits for another.

    With 16-mixed, gradients overflow while the scale is sought, and such updates are left out: only
    `SKIPPED_IN_A_ROW` of them count.

    Stands behind the callbacks that change what a checkpoint holds (the average of the weights).
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._losses: list[tuple[int, Tensor]] = []
        self._norms: list[tuple[int, Tensor]] = []
        self._skipped = self._updates = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count updates from here."""
        self._updates = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep loss and gradient norm; now and then, look."""
        assert isinstance(pl_module, ExperimentModule)
        updated = trainer.global_step != self._updates
        self._updates = trainer.global_step
        step = self._updates + (not updated)  # that the batch belongs to, from 1
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._losses.append((step, loss.detach()))
        if updated and pl_module.gradient_norm is not None:
            self._norms.append((step, pl_module.gradient_norm))
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._look(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What is not finite is no scan's fault."""
        self._look(trainer, dict(pl_module.named_parameters()))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Weights may be finite and what they give is not; the processes know the same mean."""
        loss = trainer.callback_metrics.get("dev/loss")
        if loss is not None and not bool(loss.isfinite()):
            self._stop("the loss of the development scans", trainer.global_step)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Runs in every process, before the first one writes."""
        self._look(trainer, {key: checkpoint[key] for key in LEARNT if key in checkpoint})

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Steps may follow the last checkpoint."""
        self._look(trainer, dict(pl_module.named_parameters()))

    def _look(self, trainer: L.Trainer, tensors: Mapping[str, Any] | None = None) -> None:
        """Stop where any process has seen a step that is not finite, or where one of the tensors is not."""
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        first = {"loss": _first(self._losses), "gradient": self._first_gradient(SKIPPED_IN_A_ROW if scaled else 1)}
        if trainer.world_size > 1:
            steps = torch.tensor([*first.values()], device=trainer.strategy.root_device)
            first = dict(zip(first, trainer.strategy.reduce(steps, reduce_op="min").tolist(), strict=True))
        name = min(first, key=lambda key: first[key])  # the loss, where both began at one step
        if first[name] != _NEVER:
            self._stop(f"the {name}", first[name])
        if tensors is not None:
            broken = not_finite(tensors)
            if not trainer.strategy.reduce_boolean_decision(not broken, all=True):
                self._stop(f"a weight ({broken[0]})" if broken else "a weight", trainer.global_step)

    def _first_gradient(self, allowed: int) -> int:
        """The step at which `allowed` gradients in a row were not finite, counted from earlier looks on."""
        for step, finite in _looked_at(self._norms):
            self._skipped = 0 if finite else self._skipped + 1
            if self._skipped >= allowed:
                return step
        return _NEVER

    def _stop(self, what: str, step: int) -> NoReturn:
        """Tell where, and from where the run goes on.

        Raises:
            NotFiniteError: always.
        """
        config = self.run.config
        epoch = (step - 1) // updates_per_epoch(config) + 1
        rate = learning_rate(config) * schedule_factor(step - 1, training_steps(config), config.optimizer)
        path = self.run.last_checkpoint
        if path is None:
            kept = "No checkpoint was written before, so the same command begins anew"
        else:
            kept = (
                f"The last finite checkpoint is {path} (after step {load_checkpoint(path)['global_step']}); the same "
                "command goes on from there"
            )
        raise NotFiniteError(
            f"{config.name}: {what} is not finite in step {step} of {training_steps(config)} (epoch {epoch} of "
            f"{config.trainer.max_epochs}, learning rate {rate:.3g}), so training stopped and nothing of it was saved. "
            f"{kept}. Where it stops at the same step again, start a run of another name with a lower optimizer.lr, a "
            "lower trainer.gradient_clip_val or trainer.precision=32-true."
        )


def _first(values: list[tuple[int, Tensor]]) -> int:
    """The first step whose value is not finite; the list is empty then."""
    return next((step for step, finite in _looked_at(values) if not finite), _NEVER)


def _looked_at(values: list[tuple[int, Tensor]]) -> list[tuple[int, bool]]:
    """Step and whether its value is finite, of all values at once; the list is empty then."""
    if not values:
        return []
    steps, tensors = zip(*values, strict=True)
    values.clear()
    return list(zip(steps, torch.stack(tensors).isfinite().tolist(), strict=True))
