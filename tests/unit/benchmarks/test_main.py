"""`python -m benchmarks`: options reach what measures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as program
from benchmarks.bench_table import PARTS
from data_modules.errors import UserError


def test_bench_and_training(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr("benchmarks.bench.bench", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("benchmarks.training.bench_training", lambda *arguments: calls.append(arguments))
    assert program.main(["bench", "--scan", "ct"]) == 0
    assert program.main(["bench", "--parts", "patches"]) == 0
    assert program.main(["training", "a.yaml", "seed=1", "--patches", "8", "--peak-tflops", "989", "data.x=2"]) == 0
    assert program.main(["training", "a.yaml", "--out", "x.json", "seed=1"]) == 0
    assert calls == [
        (Path("bench.json"), Path("ct"), None, None, 2, 40, PARTS),
        (Path("bench.json"), None, None, None, 2, 40, ["patches"]),
        (Path("a.yaml"), ["seed=1", "data.x=2"], [8], 989.0, Path("bench_training.json")),
        (Path("a.yaml"), ["seed=1"], [8, 4], None, Path("x.json")),
    ]


@pytest.mark.parametrize("words", [["bench", "seed=1"], ["training", "a.yaml", "--seed"], [], ["nothing"]])
def test_a_mistake_is_status_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(words)
    assert ended.value.code == 2


def test_a_user_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: Any) -> None:
        raise UserError("no such scan")

    monkeypatch.setattr("benchmarks.bench.bench", broken)
    assert program.main(["bench"]) == 2
    assert capsys.readouterr().err == "error: no such scan\n"


def test_the_product_imports_no_benchmark() -> None:
    root = Path(__file__).parents[3]
    files = [*(root / "iac_lightning").rglob("*.py"), *(root / "data_modules").rglob("*.py")]
    assert len(files) > 100
    imports = re.compile(r"^\s*(from|import) benchmarks\b", re.MULTILINE)
    assert [str(f) for f in files if imports.search(f.read_text(encoding="utf-8"))] == []
