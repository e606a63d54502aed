"""Settings printed, mistakes named, plans without data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iac_lightning.cli import main
from iac_lightning.config.reading import load_experiment
from tests.unit.iac_lightning.commands.recorder import MAE, ROOT, VIT


def isolated(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, from the repository's root."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )


def test_config_prints_what_reads_back_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", VIT, "seed=7", "data.sampling.crop=[24,24,12]"]) == 0
    path = tmp_path / "all.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_experiment(path) == load_experiment(Path(VIT), ["seed=7", "data.sampling.crop=[24,24,12]"])
    assert load_experiment(path).seed == 7


def test_mistakes_come_all_at_once_and_before_torch(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        f"extends: {VIT}\nname: own\nmodel:\n  vit: {{patchsize: [8, 8, 8]}}\n  decoder: {{upsampling: pixelshufle}}\n"
    )
    code = (
        "import sys\nfrom iac_lightning.cli import main\nstatus = main(sys.argv[1:])\n"
        "print(status, [m for m in ('torch', 'lightning', 'monai', 'mlflow') if m in sys.modules])"
    )
    done = isolated(code, "finetune", str(path), "data.batch_size=two", "data.sampling.crop=[50,48,32]")
    assert done.stdout == "2 []\n"
    assert "4 problems" in done.stderr
    for words in (
        "own.yaml:4: model.vit.patchsize: unknown key; did you mean model.vit.patch_size?",
        "did you mean pixelshuffle?",
        "data.batch_size = 'two': expected a whole number",
        "x 50 is not a multiple of 6 (use 48 or 54)",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_line_says_that_an_experiment_runs_at_a_processors_size(capsys: pytest.CaptureFixture[str]) -> None:
    for profile, said in (("cpu", True), ("gpu", False)):
        recipe = str(ROOT / "experiments/finetune/vit_mae.yaml")
        assert main(["config", recipe, f"profile={profile}"]) == 0
        captured = capsys.readouterr()
        assert f"profile: {profile}\n" in captured.out
        assert captured.err.count("\n") == said
        assert ("vit_mae: cpu profile" in captured.err) is said


def test_a_ceiling_of_no_series_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", VIT, "--ceiling", "0"]) == 2
    assert "--ceiling 0: expected how many series to measure" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["plan", VIT], ["finetune", VIT, "--dry-run"], ["pretrain", MAE, "--dry-run"]], ids=lambda w: w[0]
)
def test_a_dry_run_needs_no_data_and_leaves_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "data.cohort=nowhere.csv", "data.sampling.crop=[12,12,6]", "model.mae.masking=random"]) == 0
    text = capsys.readouterr().out
    for word in ("parameters", "memory", "steps", "tokens       2 × 2 × 2 = 8"):
        assert word in text
    assert list(tmp_path.iterdir()) == []
