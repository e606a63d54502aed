"""How exactly a GPU multiplies float32 numbers."""

from __future__ import annotations

import torch


def set_matmul_precision(precision: str, device: torch.device) -> None:
    """Apply `trainer.matmul_precision` to what this process computes on a CUDA device from here on.

    torch's own setting is about matrices alone; cuDNN's convolutions would take TF32 whatever it says. A CPU is left as
    it is, since some would round to bfloat16.

    Args:
        precision: highest, high or medium.
        device: that the network computes on.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"
