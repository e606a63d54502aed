"""What happens beside training: one line an epoch, figures of what the network sees."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from data_modules.batches.ct_data_module import CTDataModule
from data_modules.cohort.leakage import check_unseen, seen_patients, split_salt
from data_modules.cohort.registry import register_use
from data_modules.files import on_disk, write_text_atomic
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import Volume
from iac_lightning.cluster import slurm
from iac_lightning.figures.scans import overlay_figure, reconstruction_figure
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.modules.development import native_probability
from iac_lightning.modules.masking import hiding_noise
from iac_lightning.modules.probe import describe_pretraining
from iac_lightning.modules.segmentation_module import SegmentationModule
from iac_lightning.runs.directory import Run
from iac_lightning.tracking import logger as tracking
from iac_lightning.tracking.logger import RunLogger, log_figure


class RunRecord(Callback):
    """Once the data are set up: notes in every checkpoint whom it trains on, in the run which data; begins tracking."""

    def __init__(self, run: Run, logger: object) -> None:
        self.run = run
        self.logger = logger

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Runs after the data module's own `setup` and before a checkpoint is read.

        Raises:
            UserError: when a run would go on with other data than it began with, or the pre-training that it starts
                from has seen a development patient, under whatever id.
        """
        assert isinstance(pl_module, ExperimentModule)
        data: CTDataModule = trainer.datamodule  # type: ignore[attr-defined]
        dev, salt = data.dev_series, split_salt(self.run.config.data.cohort)
        for before in pl_module.trained_on:
            check_unseen(
                {item.series.patient_id for item in dev},
                before,
                salt,
                [(item.series.patient_id, item.image_digests) for item in dev],
                everyone={item.patient_id for item in data.cohort.series},
            )
        record = seen_patients(
            data.trained_patients,
            salt,
            [item.image_digests for item in data.train_series],
            ([item.series.patient_id for item in dev], [item.image_digests for item in dev]),
        )
        pl_module.trained_on = [*(r for r in pl_module.trained_on if r != record), record]
        if trainer.is_global_zero:
            scans = [(item.series, item.image_digests) for item in (*data.train_series, *dev)]
            register_use(data.cohort.path, data.cohort.series, scans)
        self.run.write_provenance(data.fingerprint)
        tracking.begin(self.logger)


class EpochHistory(Callback):
    """Appends each epoch's metrics to `logs/history.jsonl` and prints them in one line.

    A resumed run drops the lines of epochs that it repeats, so that the file holds each epoch once.
    """

    def __init__(self, run: Run) -> None:
        self.path = run.directory / "logs" / "history.jsonl"
        self.name = run.config.name
        self._start = time.monotonic()

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget epochs that will run again; send to MLflow what it lacks of the others."""
        self._start = time.monotonic()
        rows = [r for r in read_history(self.path) if r["epoch"] < trainer.current_epoch]
        write_text_atomic(self.path, "".join(json.dumps(r) + "\n" for r in rows))
        if isinstance(trainer.logger, RunLogger):
            trainer.logger.restore(rows)

    @rank_zero_only
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and print the line; runs after validation."""
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        metrics = {
            k: float(f"{float(v):.8g}")
            for k, v in sorted(trainer.callback_metrics.items())
            if not k.endswith(("_step", "_epoch"))
            and not k.startswith("lr-")
            and (validated or not k.startswith("dev/"))
        }
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **metrics}
        row["seconds"] = round(time.monotonic() - self._start, 1)
        with on_disk(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        shown = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items())
        print(
            f"{self.name}: epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {shown}  {row['seconds']} s",
            flush=True,
        )


class LossBar(TQDMProgressBar):
    """Lightning's bar with the loss, which it asks the device for at each showing alone.

    What is logged with ``prog_bar=True`` is fetched, and waited for, after every step, whether there is a bar or not.

    Args:
        every_n_steps: how often the bar is shown anew.
    """

    def __init__(self, every_n_steps: int) -> None:
        super().__init__(refresh_rate=every_n_steps)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        loss = trainer.callback_metrics.get("train/loss_step")
        shown = {} if loss is None else {"train/loss": float(loss)}
        return {**super().get_metrics(trainer, pl_module), **shown}


def read_history(path: Path) -> list[dict[str, Any]]:
    """The epochs in a history file, oldest first; a line cut off by a crash is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class RequeueCallback(Callback):
    """Inside a SLURM job: after its signal, saves `last.ckpt` at the end of a training batch and leaves (`slurm`).

    The ranks agree on the batch, since all of them write a checkpoint. Batches inside an update (with accumulation) are
    left out, whose gradients no checkpoint holds; so are the last batch of an epoch and validation: resuming there
    would skip or repeat them. A signal that meets validation costs the steps since the last
    checkpoint (`trainer.checkpoint_every_n_steps` bounds them).
    """

    def __init__(self, run: Run) -> None:
        self.path = run.checkpoints_dir / "last.ckpt"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run continued inside an epoch does not start that epoch again."""
        slurm.training_batches(True)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything before is saved."""
        if self._agreed(trainer):
            slurm.requeue()
        slurm.training_batches(True)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and leave, where the signal has come to any rank."""
        inside_update = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if not trainer.is_last_batch and not inside_update and self._agreed(trainer):
            trainer.save_checkpoint(self.path)
            slurm.requeue()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing can be saved while it runs: the signal is answered at once."""
        slurm.training_batches(False)
        if slurm.asked():
            slurm.requeue()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The checkpoint of the epoch follows: wait for it."""
        slurm.training_batches(True)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing of a training is left to wait for."""
        slurm.training_batches(False)
        if slurm.asked():
            slurm.requeue()

    @staticmethod
    def _agreed(trainer: L.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(slurm.asked(), all=False)


class ReconstructionFigure(Callback):
    """After each validation of a pre-training: original, what was shown, what was restored, and how well."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._views: dict[str, Any] = {}

    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Restore the first development crop."""
        if batch_idx > 0 or trainer.sanity_checking:
            return
        assert isinstance(pl_module, ExperimentModule)
        model: Any = pl_module.network
        image = batch["image"][:1]
        noise = hiding_noise(self.run.config, model.grid, 0, batch["sample_index"][:1])
        with torch.no_grad():
            output = model(image, noise=noise, condition=batch["condition"][:1] if "condition" in batch else None)
            hidden = model.token_mask_to_voxels(output.mask)
        self._views = {
            "image": image[0, 0].float().cpu().numpy(),
            "hidden": hidden[0, 0].cpu().numpy(),
            "reconstruction": output.reconstruction[0, 0].float().cpu().numpy(),
        }

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw it, under what the validation has measured."""
        if trainer.sanity_checking:
            return
        config, data = self.run.config, self.run.config.data
        measured = describe_pretraining(trainer.callback_metrics)
        figure = reconstruction_figure(
            **self._views,
            spacing_mm=data.grid.spacing_mm,
            title=f"{config.name}, epoch {trainer.current_epoch + 1}: a development crop\n{measured}",
            window_hu=data.window_hu,
        )
        log_figure(pl_module.logger, figure, self.run.directory / "figures" / "reconstruction.png")


class OverlayFigure(Callback):
    """After each validation of a segmentation: label and prediction on one development scan of the first device.

    The prediction is that of the validation, with its weights (the averaged ones, where there are such), and is drawn
    at the threshold that validation has found.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._chosen: PreparedSeries | None = None
        self._probability: Volume | None = None

    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the prediction of the scan, once a validation."""
        if trainer.sanity_checking:
            return
        data: CTDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if self._chosen is None:
            self._chosen = median_burden(data.dev_series[:: trainer.world_size])
        assert isinstance(pl_module, SegmentationModule)
        for index, probability in pl_module.predicted.items():
            if data.dev_series[index] is self._chosen:
                self._probability = probability

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw it."""
        if trainer.sanity_checking or self._chosen is None or self._probability is None:
            return
        config, chosen = self.run.config, self._chosen
        probability = native_probability(chosen, self._probability, config.loss.restrict_hu)
        threshold = float(trainer.callback_metrics.get("dev/threshold", 0.5))
        figure = overlay_figure(
            Volume(np.asarray(chosen.native_hu()), chosen.native_grid),
            label=Volume(np.asarray(chosen.native_label()) > 0, chosen.native_grid),
            prediction=probability.with_data(probability.data >= threshold),
            probability=probability,
            title=f"{config.name}, epoch {trainer.current_epoch + 1}: development scan "
            f"{chosen.series.series_id}, {chosen.slice_thickness_mm:g} mm slices",
        )
        log_figure(pl_module.logger, figure, self.run.directory / "figures" / "overlay.png")


def median_burden(series: Sequence[PreparedSeries]) -> PreparedSeries:
    """The series with the median labelled volume among those with lesions; among all, where none has any."""
    sizes = [(int((np.asarray(s.native_label()) > 0).sum()), s.series.series_id, s) for s in series]
    ranked = sorted((row for row in sizes if row[0]), key=lambda row: row[:2]) or sorted(sizes, key=lambda r: r[:2])
    return ranked[len(ranked) // 2][2]
