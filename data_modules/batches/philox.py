"""Random numbers that follow from their place alone: Philox4x64-10, the generator of `numpy.random.Philox`, in torch.

Whatever the device, the batch or the order, sample `index` of `epoch` draws the same numbers. Its bits are those of
`np.random.Philox(key=[seed, stream], counter=[0, epoch, index, 0]).random_raw(n)`.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

PLAN, NOISE, MASKING, EXTRA = 0, 1, 2, 3
"""Streams: what decides a patch, its noise, what a masked autoencoder hides of it, what a user's transforms draw."""

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_WORDS = 4  # of a block, 64 bits each
_HALF = 0xFFFFFFFF
_NORMALS = 4  # of a word


def random_bits(seed: int, stream: int, epoch: int | Tensor, index: Tensor, n: int) -> Tensor:
    """`[B, n]` int64, all 64 bits random, on the device of `index`.

    Args:
        seed: first half of the key, from 0 to 2⁶⁴ − 1.
        stream: second half; one of this module's streams.
        epoch: of all samples, or `[B]`.
        index: `[B]` int64, of each sample within its epoch.
        n: numbers a sample. The first of them are the same for every n.
    """
    if index.device.type == "cpu" and (n >= _BULK or len(index) <= _FEW):
        return _bits_by_numpy(seed, stream, epoch, index, n)
    device = index.device
    block = torch.arange(1, math.ceil(n / _WORDS) + 1, device=device)[None]
    of_epoch = torch.full((1, 1), epoch, device=device) if isinstance(epoch, int) else epoch[:, None]
    key = [torch.full((), _signed(word), dtype=torch.int64, device=device) for word in (seed, stream)]
    rounds = _rounds_of_gpu() if device.type == "cuda" and not torch.compiler.is_compiling() else _rounds
    bits: Tensor = rounds(block, of_epoch, index[:, None], *key)
    return bits.flatten(1)[:, :n]


def uniform(seed: int, stream: int, epoch: int | Tensor, index: Tensor, n: int) -> Tensor:
    """`[B, n]` float64 in [0, 1), multiples of 2⁻⁵³; arguments as of `random_bits`."""
    bits = random_bits(seed, stream, epoch, index, n)
    return (bits >> 11).bitwise_and_((1 << 53) - 1).to(torch.float64).mul_(2.0**-53)


def normal(seed: int, stream: int, epoch: int | Tensor, index: Tensor, n: int) -> Tensor:
    """`[B, n]` float32, standard normal by Box and Muller; arguments as of `random_bits`.

    Each of a pair is made of 16 bits, which ends the distribution at 4.9 standard deviations: enough for noise, at a
    quarter of the numbers. Devices agree to the rounding of their logarithm, sine and cosine.
    """
    words = -(-n // _NORMALS)
    parts = random_bits(seed, stream, epoch, index, words).contiguous().view(torch.int16)  # [B, 4 × words]
    pairs = parts.shape[1] // 2
    radius = parts[:, :pairs].to(torch.float32).add_(2.0**15 + 0.5).mul_(2.0**-16).log_().mul_(-2).sqrt_()
    angle = parts[:, pairs:].to(torch.float32).mul_(math.pi * 2.0**-15)
    out = torch.empty(parts.shape, device=index.device)
    torch.mul(angle.cos(), radius, out=out[:, :pairs])
    torch.mul(angle.sin_(), radius, out=out[:, pairs:])
    return out[:, :n]


_BULK = 4096  # numbers a sample from which numpy's generator is faster than torch's hundreds of operations
_FEW = 64  # samples up to which it is faster for fewer numbers too


def _bits_by_numpy(seed: int, stream: int, epoch: int | Tensor, index: Tensor, n: int) -> Tensor:
    epochs = torch.as_tensor(epoch).expand(index.shape)
    key = np.array([seed, stream], dtype=np.uint64)
    bits = np.empty((len(index), n), dtype=np.uint64)
    for row, (e, i) in enumerate(zip(epochs.tolist(), index.tolist(), strict=True)):
        bits[row] = np.random.Philox(key=key, counter=np.array([0, e, i, 0], dtype=np.uint64)).random_raw(n)
    return torch.from_numpy(bits.view(np.int64))


def _rounds(block: Tensor, epoch: Tensor, index: Tensor, key_a: Tensor, key_b: Tensor) -> Tensor:
    """`[B, blocks, 4]` from counters (block, epoch, index, 0) that broadcast to `[B, blocks]`."""
    a, b, c, d = block, epoch, index, torch.zeros_like(index)
    for k in range(_ROUNDS):
        high_a, low_a = _product(_MULTIPLIERS[0], a)
        high_c, low_c = _product(_MULTIPLIERS[1], c)
        round_a, round_b = key_a + _signed(k * _WEYL[0]), key_b + _signed(k * _WEYL[1])
        a, b, c, d = high_c ^ b ^ round_a, low_c, high_a ^ d ^ round_b, low_a
    return torch.stack(torch.broadcast_tensors(a, b, c, d), dim=-1)


def _product(factor: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 64 bits of the unsigned product; int64 wraps around, so only its shifts need care."""
    factor_high, factor_low = factor >> 32, factor & _HALF
    x_high, x_low = (x >> 32) & _HALF, x & _HALF
    middle = x_high * factor_low + _upper(x_low * factor_low)
    other = x_low * factor_high + (middle & _HALF)
    return x_high * factor_high + _upper(middle) + _upper(other), x * _signed(factor)


def _upper(x: Tensor) -> Tensor:
    return (x >> 32) & _HALF


def _signed(word: int) -> int:
    """The int64 of the same 64 bits."""
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word


@cache
def _rounds_of_gpu() -> Any:
    """One kernel in place of four hundred, each of which would cost its launch; the same bits."""
    compiled = torch.compile(_rounds, dynamic=True)
    ones = [torch.ones(shape, dtype=torch.int64, device="cuda") for shape in ((1, 2), (1, 1), (2, 1), (), ())]
    try:
        compiled(*ones)
    except (RuntimeError, OSError, ImportError) as error:  # whatever a machine without a compiler answers
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"random numbers on the GPU cost some milliseconds a batch: no kernel ({reason})", stacklevel=2)
        return _rounds
    return compiled
