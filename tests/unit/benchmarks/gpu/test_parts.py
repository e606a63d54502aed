"""The other parts at their tiny size, and what starts them all."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import autoencoders, data_path, shared_card
from benchmarks.gpu.shared_card import Cell, CellError, Cells, serve
from benchmarks.synthetic import TINY

ROOT = Path(__file__).parents[4]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_loaders_are_ratios_to_the_batched_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([100.0, 50.0, 2.0, 80.0, 1000.0, 500.0, 10.0, 100.0])

    def fresh_rate(begin: Any, seconds: float, lot: int) -> float:
        if "nnunet" in begin.func.__name__:
            next(begin())
        return next(rates)

    monkeypatch.setattr("benchmarks.loaders.fresh_rate", fresh_rate)
    out = tmp_path / "out.jsonl"
    assert data_path.main(["--device", "cpu", "--out", str(out)]) == 0
    rows = lines(out)
    names = ["batched engine", "TorchIO engine", "tio.Queue, 1 a volume", "tio.Queue, 16 a volume", "nnU-Net's loader"]
    assert [row["loader"] for row in rows] == names * 2
    assert [row["augmented"] for row in rows] == [True] * 5 + [False] * 5
    assert [row.get("ours_to_it") for row in rows] == [1, 2, 50, 1.25, None, 1, 2, 100, 10, None]
    assert rows[4]["problem"] == "nnU-Net is not installed"


def test_autoencoders_are_compared_with_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.5, 1.0, 0.75, 0.5])
    monkeypatch.setattr(autoencoders, "seconds_a_step", lambda step, *_: (step(), (next(seconds), 3))[1])
    out = tmp_path / "out.jsonl"
    assert autoencoders.main(["--device", "cpu", "--out", str(out)]) == 0
    rows = {row["network"]: row for row in lines(out)}
    assert {name: row.get("to_ours") for name, row in rows.items()} == {
        **{"ours": 1, "MONAI, einsum": 2, "MONAI, flash": 1.5},
        **{"ours, wide decoder": 1, "nnssl's EvaMAE": None},
    }
    assert rows["ours"]["tokens"] == 32
    assert rows["nnssl's EvaMAE"]["problem"] == "nnssl is not installed"


def test_gains_are_over_one_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Known:
        def __init__(self, cell: Cell, counts: list[int]) -> None:
            assert counts == [1, 2, 4]

        def train(self, count: int) -> list[float]:
            if count == 4:
                raise CellError("RuntimeError: out of memory")
            return [10.0] if count == 1 else [8.0, 7.0]

        def close(self) -> None:
            """Nothing to end."""

    monkeypatch.setattr(shared_card, "Cells", Known)
    out = tmp_path / "out.jsonl"
    assert shared_card.main(["--device", "cpu", "--out", str(out), "--cells", "4", "1", "2"]) == 1
    one, two, four = lines(out)
    assert (one["gain"], two["gain"], two["each"], two["samples_per_s"]) == (1, 1.5, 0.75, 15)
    assert four["problem"] == "RuntimeError: out of memory"


def cell(folder: Path, **changes: Any) -> Cell:
    known = {"network": "mae", "size": TINY, "batch": 2, "precision": "32-true", "device": "cpu", "arm": "bare"}
    return Cell(**{**known, "workers": 0, "seconds": 0.0, "folder": folder, **changes})


def test_a_cell_trains_when_asked_and_waits_for_the_others(tmp_path: Path) -> None:
    asked: Any = SimpleQueue()
    told: Any = SimpleQueue()
    barrier: Any = threading.Barrier(2)
    asked.put(2)
    asked.put(0)
    thread = threading.Thread(target=serve, args=(cell(tmp_path), 0, {2: barrier}, asked, told))
    thread.start()
    assert told.empty()
    barrier.wait(timeout=60)  # the other cell
    assert told.get(timeout=60) > 0
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_cell_that_fails_frees_the_others(tmp_path: Path) -> None:
    asked: Any = SimpleQueue()
    told: Any = SimpleQueue()
    barrier: Any = threading.Barrier(2)
    asked.put(2)
    asked.put(0)
    serve(cell(tmp_path, precision="none", size=None), 0, {2: barrier}, asked, told)
    assert "AttributeError" in told.get()
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(timeout=1)


@pytest.mark.slow
def test_two_processes_train_together(tmp_path: Path) -> None:
    cells = Cells(cell(tmp_path, seconds=0.2), [1, 2])
    try:
        assert len(cells.train(1)) == 1
        assert min(cells.train(2)) > 0
    finally:
        cells.close()


def test_parts_share_their_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[Any] = []
    for part in program.PARTS:
        monkeypatch.setattr(f"benchmarks.gpu.{part}.main", lambda words, part=part: calls.append((part, words)) or 0)
    assert program.main(["data_path", "steps", "--device", "cpu"]) == 0
    assert calls == [("data_path", ["--device", "cpu"]), ("steps", ["--device", "cpu"])]
    assert program.main(["--device", "cpu"]) == 2
    assert "steps, data_path, autoencoders, shared_card" in capsys.readouterr().err


def all_sh(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it with an interpreter that prints what it is asked for."""
    fake = folder / "python"
    fake.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS: $@"\n')
    fake.chmod(0o755)
    command = ["bash", str(ROOT / "benchmarks/gpu/all.sh"), f"PYTHON={fake}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_everything_on_a_cpu_is_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done = all_sh(tmp_path, "DEVICE=cpu", "OUT=x.jsonl")
    expected = (
        "1: -m benchmarks.gpu steps data_path autoencoders shared_card --device cpu --out x.jsonl --seconds 200\n"
    )
    assert (done.returncode, done.stdout) == (0, expected)


def test_parts_on_a_gpu_are_processes_of_their_own(tmp_path: Path) -> None:
    done = all_sh(tmp_path, "DEVICE=cuda", "PARTS=mae data_path", "LIMIT=60")
    calls = [line.partition("-m ")[2] for line in done.stdout.splitlines() if "-m" in line]
    assert calls == [
        "benchmarks.gpu steps --device cuda --out bench_gpu.jsonl --seconds 60 --networks mae",
        "benchmarks.gpu data_path --device cuda --out bench_gpu.jsonl --seconds 60",
    ]


def test_a_word_that_it_does_not_know(tmp_path: Path) -> None:
    done = all_sh(tmp_path, "DEVICE=gpu")
    assert done.returncode == 2
    assert "DEVICE=gpu: expected DEVICE=cpu, DEVICE=cuda" in done.stderr
