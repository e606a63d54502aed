"""Experiments of a few seconds."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent


def overrides(cohort: Path, runs: Path, *more: str) -> list[str]:
    """Settings that make an experiment of `experiments/demo` tiny."""
    return [
        f"data.cohort={cohort}",
        f"runs_dir={runs}",
        "data.prepare_workers=1",
        "data.grid.spacing_mm=[1.6,1.6,3.2]",
        "data.sampling.crop=[16,16,8]",
        "data.sampling.samples_per_epoch=8",
        "model.vit.patch_size=[8,8,4]",
        "model.vit.tokeniser_channels=4",
        "model.vit.dim=24",
        "model.vit.depth=2",
        "model.vit.heads=2",
        "model.decoder.channels=4",
        "model.mae.masking=random",
        "model.mae.decoder_dim=24",
        "model.mae.decoder_heads=2",
        "model.cnn.base_features=4",
        "trainer.max_epochs=3",
        "trainer.check_val_every_n_epoch=1",
        *more,
    ]


def experiment(name: str) -> Path:
    """One of the demo's experiments."""
    return REPOSITORY / "experiments" / "demo" / f"{name}.yaml"
