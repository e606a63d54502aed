"""A training notices that the files it was prepared from change while it runs."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from data_modules.batches.ct_data_module import CTDataModule
from data_modules.errors import UserError
from data_modules.prepare.facts import read_meta
from data_modules.prepare.sources import source_sha256, source_state
from data_modules.prepare.store import PreparedSeries


class SourcesWatch(Callback):
    """At the end of every epoch: are the scans and labels still those that the run's fingerprint tells of?

    Names, sizes and times are looked at; where they differ, the content decides. A file that is gone (a folder that was
    moved) is no other content: what training needs is prepared. The first process looks, all stop together.
    """

    def __init__(self) -> None:
        self._series: tuple[PreparedSeries, ...] = ()
        self._root = Path()
        self._states: dict[str, str] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the state of the files."""
        data: CTDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._root = data.cohort.path.parent
        self._series = (*data.train_series, *data.dev_series) if trainer.is_global_zero else ()
        self._states = {s.series.series_id: self._state(s) or "" for s in self._series}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare.

        Raises:
            UserError: naming the series whose files hold something else.
        """
        changed = trainer.strategy.broadcast([s.series.series_id for s in self._series if self._has_changed(s)])
        if changed:
            raise UserError(
                f"{self._root}: scans or labels of {len(changed)} series ({', '.join(changed[:5])}) were changed while "
                f"the run was training on them: its data fingerprint is no longer theirs, so it stopped in epoch "
                f"{trainer.current_epoch + 1}. Bring the files back and run the same command again, which continues; "
                "or train on the new ones under another name (name=…)."
            )

    def _state(self, item: PreparedSeries) -> str | None:
        """Of the files, None where one is gone."""
        try:
            return source_state(item.series, self._root)
        except OSError:
            return None

    def _has_changed(self, item: PreparedSeries) -> bool:
        state, before = self._state(item), self._states[item.series.series_id]
        if state in (None, before):
            return False
        self._states[item.series.series_id] = state or ""
        meta = read_meta(item.directory) or {}
        return source_sha256(item.series, meta.get("thickness_from", "file")) != item.source_sha256
