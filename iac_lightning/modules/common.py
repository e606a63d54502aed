"""What both LightningModules share: randomness that survives a restart, and what a checkpoint remembers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from data_modules.errors import UserError
from iac_lightning.config.batching import batch_weight, learning_rate, training_steps
from iac_lightning.config.dotted import flat
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import config_dict, decisive_settings
from iac_lightning.models.build import build_model, memory_format
from iac_lightning.modules.optimisers import build_optimizer, decayed_parameters
from iac_lightning.modules.strategies import whole_state

_OF_THE_WEIGHTS = ("task", "model.", "optimizer.")
"""Settings that decide which weights and moments there are."""


def told(batch: dict[str, Any]) -> tuple[Tensor, ...]:
    """What the network is told of a batch beside the image, as the last inputs of `forward_pass`."""
    return (batch["condition"],) if "condition" in batch else ()


class ExperimentModule(L.LightningModule):
    """Network, optimiser and memory of one experiment.

    Attributes:
        gradient_norm: of the last update, before clipping, on the device; None before the first.
        config: the experiment.
        model: its network; names in its state are those of a plain `torch.nn.Module`, without prefix, on transfer.
        trained_on: whom it and its encoder learnt from, as salted hashes (`cohort.leakage.seen_patients`), one
            record a training; goes into every checkpoint.
    """

    _whole: tuple[nn.Module, ...] = ()  # in a tuple it is no part of this module

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__()
        self.config = config
        self._sharded = config.trainer.strategy.startswith("fsdp")
        self.model: nn.Module = build_model(config).to(memory_format=memory_format(config))  # type: ignore[call-overload]
        self.trained_on: list[dict[str, Any]] = []
        self.gradient_norm: Tensor | None = None
        self._compiled: Callable[..., Tensor] | None = None
        self._records_graphs = False
        self._decayed = decayed_parameters(self.model)

    @property
    def network(self) -> nn.Module:
        """What validation and figures predict with: `model`, or under FSDP its whole copy on this device."""
        return self._whole[0] if self._whole else self.model

    @staticmethod
    def forward_pass(*inputs: Any, **_: Any) -> Tensor:
        """What a training step computes from its batch in this process alone: the network and what follows from it."""
        raise NotImplementedError

    def training_pass(self, image: Tensor, *others: Tensor) -> Tensor:
        """`forward_pass` of a training batch; compiled, once `compile_step` was called.

        The last batch of an epoch may be smaller. It is not compiled: a second graph would take minutes for one step.
        """
        if self._compiled is None or len(image) != self.config.data.batch_size:
            return self.forward_pass(self.model, image, *others)
        return self._compiled(self.model, image, *others).clone()  # a recorded graph overwrites what it has given

    def compile_step(self, backend: Any = "inductor") -> None:
        """Compile `forward_pass` with its backward pass for whole batches; the names in the state stay.

        The exchange between processes, the optimiser and validation are left out: the first waits for others, the
        second is a launch a group already, the third would be compiled again for every number of windows.
        """
        checkpointing = self.config.model.vit.activation_checkpointing or self.config.model.cnn.activation_checkpointing
        torch._dynamo.config.optimize_ddp = (
            not checkpointing
        )  # its cuts at DDP's buckets cannot part what is recomputed
        self._records_graphs = self.config.trainer.compile == "cuda_graphs" and self.device.type == "cuda"
        mode = "reduce-overhead" if self._records_graphs else None
        self._compiled = torch.compile(self.forward_pass, fullgraph=True, dynamic=False, mode=mode, backend=backend)

    def on_train_start(self) -> None:
        """Compile, on the device that trains."""
        if self.config.trainer.compile != "off":
            self.compile_step()

    def step_loss(self, loss: Tensor, batch_idx: int) -> Tensor:
        """What a training step returns for the mean loss of its batch (see `batch_weight`)."""
        weight = batch_weight(self.config, batch_idx)
        return loss if weight == 1 else loss * weight

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed this step from (seed, step, rank), so that a resumed run draws what the uninterrupted one would."""
        if self._records_graphs:  # whose outputs, the last gradients among them, end here
            self.model.zero_grad(set_to_none=True)
            torch.compiler.cudagraph_mark_step_begin()
        entropy = (self.config.seed, self.global_step, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule from the config, over all steps of the run.

        `trainer.estimated_stepping_batches` would make Lightning open the loader before it has read the checkpoint, and
        then forget where in the epoch the loader was.
        """
        settings = replace(self.config.optimizer, lr=learning_rate(self.config))
        fused = True if self.device.type in ("cpu", "cuda") and not self._sharded else None
        return build_optimizer(self.model, settings, training_steps(self.config), self._decayed, fused)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of the whole gradient, which under FSDP only the wrapped network knows, and keep the norm.

        As Lightning's own, which does not tell the norm.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDPStrategy):
            self.gradient_norm = strategy.model.clip_grad_norm_(gradient_clip_val or math.inf)  # type: ignore[union-attr, operator]
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and _optimizer_handles_unscaling(optimizer):
            scaler.unscale_(optimizer)  # Lightning leaves it to a fused optimiser, which would do it after clipping
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_val:
            self.gradient_norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            self.gradient_norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def on_validation_start(self) -> None:
        """Under FSDP, gather the weights: devices validate unequal shares, and a shared network waits for all.

        A forward pass of a network that is shared out is an exchange between all devices, so each would have to make
        the same number of them, and the first alone could draw no figure.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDPStrategy) and strategy.model is not None:
            network = build_model(self.config)
            network.load_state_dict(whole_state(strategy.model, "model."))
            self._whole = (network.to(self.device).eval(),)

    def on_validation_end(self) -> None:
        """Forget the copy."""
        self._whole = ()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another network or optimiser.

        Raises:
            UserError: naming the settings that differ.
        """
        own = checkpoint.get("iac")
        before = flat(own["config"]) if isinstance(own, dict) and isinstance(own.get("config"), dict) else {}
        now = {key: value for key, value in decisive_settings(self.config).items() if key.startswith(_OF_THE_WEIGHTS)}
        changed = [f"{k}: {before[k]} there, {v} here" for k, v in now.items() if before.get(k, v) != v]
        if not before or changed:
            raise UserError(
                f"{self.trainer.ckpt_path}: is the checkpoint of another training"
                + (f" ({'; '.join(changed[:5])})" if changed else " (it does not say of which)")
                + ". Put back the one that the run has written, or delete it to begin the run anew."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store plain types only, so that the file loads with ``weights_only=True``."""
        checkpoint["iac"] = {"config": config_dict(self.config), "trained_on": self.trained_on}
