"""Voxels of a model whose true probabilities are known."""

from __future__ import annotations

import numpy as np
from scipy import special

from iac_lightning.evaluation.calibration.scaling import Part


def voxels(n: int, seed: int, sharpen: float = 1.0, shift: float = 0.0) -> Part:
    """Labels drawn from true probabilities (rare lesions); the model's logits are `sharpen` times the true ones."""
    rng = np.random.default_rng([seed])
    logit = rng.normal(-5, 2.5, n)
    label = rng.random(n) < special.expit(logit)
    return special.expit(sharpen * logit + shift).astype(np.float32), label


def joined(parts: list[Part]) -> Part:
    return np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts])


def names(n: int) -> list[str]:
    return [f"p{i // 2}" for i in range(n)]
