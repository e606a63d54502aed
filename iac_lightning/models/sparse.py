"""Convolutions that know which places are hidden (SparK, Tian et al., ICLR 2023; S3D, Wald et al. 2024).

A dense convolution spreads what is visible into hidden places, level by level, until the mask is gone, and its norms
count what is no part of any image. Here hidden places are emptied again after every block, and norms look at visible
places only. A place of a coarser level is visible where any voxel below it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def visible_at(visible: Tensor, like: Tensor) -> Tensor:
    """The mask `[B, 1, X, Y, Z]` of the finest level on the grid of features `[B, C, X / sx, Y / sy, Z / sz]`."""
    stride = [fine // coarse for fine, coarse in zip(visible.shape[2:], like.shape[2:], strict=True)]
    return visible if max(stride) == 1 else F.max_pool3d(visible, stride)


def emptied(x: Tensor, visible: Tensor | None) -> Tensor:
    """Features with 0 in hidden places; as they are, where no mask is given."""
    return x if visible is None else x * visible_at(visible, x).to(x.dtype)


def normalised(norm: nn.Module, x: Tensor, visible: Tensor | None) -> Tensor:
    """`norm(x)`, of an instance norm; with a mask, its mean and variance are those of the visible places."""
    if visible is None:
        result: Tensor = norm(x)
        return result
    assert isinstance(norm, nn.InstanceNorm3d)
    seen, places = visible_at(visible, x).float(), (2, 3, 4)
    n = seen.sum(places, keepdim=True)
    mean = (x.float() * seen).sum(places, keepdim=True) / n
    centred = (x.float() - mean) * seen
    variance = centred.square().sum(places, keepdim=True) / n
    weight, bias = (p.float()[:, None, None, None] for p in (norm.weight, norm.bias))
    return (centred * torch.rsqrt(variance + norm.eps) * weight + bias).to(x.dtype)
