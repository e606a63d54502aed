from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from data_modules.batches import philox
from data_modules.batches.philox import normal, random_bits, uniform

LARGE = 2**64 - 3
KEYS = [(0, 0, 0, [0]), (7, 1, 3, [5, 6, 2**40]), (LARGE, 2, 2**33 + 1, [2**63 - 1, 0])]


def of_numpy(seed: int, stream: int, epoch: int, index: int) -> np.random.Philox:
    counter = np.array([0, epoch, index, 0], dtype=np.uint64)
    return np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=counter)


@pytest.mark.parametrize(("seed", "stream", "epoch", "indices"), KEYS)
@pytest.mark.parametrize("bulk", [1, 10**9])
def test_bits_are_numpys(
    seed: int, stream: int, epoch: int, indices: list[int], bulk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(philox, "_BULK", bulk)  # by numpy itself, and by torch
    bits = random_bits(seed, stream, epoch, torch.tensor(indices), 37).numpy().view(np.uint64)
    for row, index in zip(bits, indices, strict=True):
        np.testing.assert_array_equal(row, of_numpy(seed, stream, epoch, index).random_raw(37))


def test_each_sample_may_have_its_own_epoch() -> None:
    index, epochs = torch.tensor([4, 4, 9]), torch.tensor([0, 1, 1])
    for n in (5, 5000):
        together = random_bits(1, 2, epochs, index, n)
        for row, (epoch, i) in enumerate(zip(epochs.tolist(), index.tolist(), strict=True)):
            assert torch.equal(together[row], random_bits(1, 2, epoch, torch.tensor([i]), n)[0])


def test_uniform_is_numpys() -> None:
    values = uniform(3, 0, 2, torch.tensor([8, 9]), 100)
    assert values.dtype == torch.float64
    for row, index in zip(values.numpy(), (8, 9), strict=True):
        np.testing.assert_array_equal(row, np.random.Generator(of_numpy(3, 0, 2, index)).random(100))


class TestNormal:
    def test_distribution(self) -> None:
        values = normal(5, philox.NOISE, 0, torch.arange(4), 50_001).numpy()
        assert values.dtype == np.float32
        assert values.shape == (4, 50_001)
        for row in values:
            assert stats.kstest(row, "norm").pvalue > 0.01
        assert abs(np.corrcoef(values)[np.triu_indices(4, 1)]).max() < 0.02
        half = values.shape[1] // 2 + 1  # the two of a pair lie half of the words apart
        assert abs(np.corrcoef(values[0, : half - 2], values[0, half : 2 * half - 2])[0, 1]) < 0.02
        assert 4 < np.abs(values).max() < 4.9
        assert np.isfinite(values).all()

    def test_the_most_extreme_bits_are_finite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        extremes = torch.tensor([0, -1, 1, -(2**63), 2**63 - 1, 2**31, -(2**31), -(2**15)])
        monkeypatch.setattr(philox, "random_bits", lambda *a: extremes[None, : a[-1]])
        values = normal(0, 0, 0, torch.tensor([0]), 32)
        assert torch.isfinite(values).all()
        assert values.abs().max() < 4.9

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        together = normal(5, 1, 3, torch.tensor([2, 11, 4]), 9_000)
        for row, index in enumerate((2, 11, 4)):
            assert torch.equal(together[row], normal(5, 1, 3, torch.tensor([index]), 9_000)[0])


def test_streams_seeds_epochs_and_indices_differ() -> None:
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    rows = {tuple(random_bits(s, k, e, torch.tensor([i]), 4)[0].tolist()) for s, k, e, i in keys}
    assert len(rows) == len(keys)


@pytest.mark.slow
def test_compiled_as_on_a_gpu() -> None:
    arguments = torch.arange(1, 9)[None], torch.full((1, 1), 3), torch.tensor([[5], [6]]), *torch.tensor([7, 1])
    assert torch.equal(torch.compile(philox._rounds, dynamic=True)(*arguments), philox._rounds(*arguments))


def test_a_gpu_without_a_compiler_draws_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(function: Any, **settings: Any) -> Any:
        def fail(*arguments: Any) -> Any:
            raise RuntimeError("Failed to find C compiler\nmore")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(torch, "ones", lambda *a, **k: torch.zeros(()))
    philox._rounds_of_gpu.cache_clear()
    with pytest.warns(UserWarning, match=r"no kernel \(Failed to find C compiler\)"):
        assert philox._rounds_of_gpu() is philox._rounds
    philox._rounds_of_gpu.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_draws_what_the_cpu_draws() -> None:
    index = torch.tensor([0, 3, 2**40])
    assert torch.equal(random_bits(7, 1, 3, index.cuda(), 5000).cpu(), random_bits(7, 1, 3, index, 5000))
    assert torch.equal(uniform(7, 1, 3, index.cuda(), 41).cpu(), uniform(7, 1, 3, index, 41))
    torch.testing.assert_close(
        normal(7, 1, 3, index.cuda(), 9001).cpu(), normal(7, 1, 3, index, 9001), rtol=1e-5, atol=1e-5
    )
