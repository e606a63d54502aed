"""The demo's bookkeeping: which steps run, what their failure says, and the figures it shows."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from data_modules.errors import UserError
from iac_lightning.config.model_schema import resolved_vit
from iac_lightning.config.reading import load_experiment
from iac_lightning.workflows import demo as workflow
from iac_lightning.workflows.demo import CAVEAT, MODELS, collect, demo, run_step, summary_lines

EXPERIMENTS = Path(__file__).parents[4] / "experiments" / "demo"


def write_evaluations(out: Path) -> None:
    for k, name in enumerate(MODELS):
        path = out / name / "evaluation" / "test.json"
        path.parent.mkdir(parents=True)
        summary = {
            "dice": {"mean": 0.5 + k / 10, "ci95": [0.4, 0.7], "n": 20},
            "threshold": 0.35,
            "volume_icc": {"value": 0.9, "ci95": [0.8, 0.95]},
            "n_series": 41,
            "n_patients": 27,
            "sensitivity": {"mean": 0.1, "ci95": [0, 1]},
        }
        if name != "cnn":
            summary["controls"] = {"mean_tokens": {"dice": {"mean": 0.01 * k, "ci95": [0, 0.1]}}}
        path.write_text(json.dumps(summary))


class Processes:
    """Stands in for `run_step`: notes the commands, ends the named one with status 1."""

    def __init__(self, failing: tuple[str, str] | None = None) -> None:
        self.steps: list[list[str]] = []
        self.failing = failing

    def __call__(self, step: list[str]) -> int:
        self.steps.append(step)
        return int(self.failing is not None and step[0] == self.failing[0] and self.failing[1] in step[1])

    def named(self, word: str) -> list[str]:
        return next(s for s in self.steps if s[0] != "evaluate" and Path(s[1]).stem == word)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """No phantom, no preparation, no database, no page."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(workflow, "make_phantom_cohort", lambda *a, **k: seen.update(phantom=(a, k)))
    monkeypatch.setattr(workflow, "prepare_cohort", lambda data: seen.update(prepared=data.cohort))
    monkeypatch.setattr(workflow, "create_store", lambda config: seen.update(store=config.runs_dir))
    monkeypatch.setattr(workflow, "load_run", lambda path: path)

    def report(runs: list[Path], out: Path, split: str, caveat: str) -> Path:
        seen.update(report=(runs, split, caveat))
        return out / "index.html"

    monkeypatch.setattr("iac_lightning.workflows.reports.models.report", report)
    return seen


def test_the_fine_tuning_waits_for_its_pretraining(
    quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where the pre-training takes longer than everything else."""
    order: list[tuple[str, str]] = []
    others_done = threading.Event()

    def step(command: list[str]) -> int:
        if "mae.yaml" in Path(command[1]).name and command[0] == "pretrain":
            assert others_done.wait(10)
        order.append((command[0], Path(command[1]).stem))
        if ("evaluate", "vit_scratch") in order:
            others_done.set()
        return 0

    monkeypatch.setattr(workflow, "run_step", step)
    write_evaluations(tmp_path / "mine")
    demo(EXPERIMENTS, tmp_path / "mine", tmp_path / "data", 30, [])
    assert order.index(("pretrain", "mae")) < order.index(("finetune", "vit_mae"))
    assert order.index(("evaluate", "vit_scratch")) < order.index(("pretrain", "mae"))


def test_the_whole_path(quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    processes, out = Processes(), tmp_path / "runs" / "mine"
    monkeypatch.setattr(workflow, "run_step", processes)
    write_evaluations(out)
    results = demo(EXPERIMENTS, out, tmp_path / "data", 30, ["seed=5"])
    assert json.loads((out / "results.json").read_text()) == results
    assert quick["phantom"][0] == (tmp_path / "data", 30)
    assert quick["prepared"] == str(tmp_path / "data" / "cohort.csv")
    assert quick["report"] == ([out / name for name in MODELS], "test", CAVEAT)
    assert len(processes.steps) == 13  # five trainings, four evaluations on two splits
    pretrain, vit = processes.named("mae"), processes.named("vit_mae")
    assert pretrain[0] == "pretrain"
    assert {"name=mine/mae", f"runs_dir={tmp_path / 'runs'}", "seed=5"} <= set(pretrain)
    assert {"name=mine/vit_mae", f"init_from={out / 'mae'}"} <= set(vit)
    assert not any(word.startswith("init_from") for word in processes.named("vit_scratch"))
    evaluated = [(s[1], s[3]) for s in processes.steps if s[0] == "evaluate"]
    for name in MODELS:  # the test split last: what dev decides is decided before the look
        assert [split for run, split in evaluated if run == str(out / name)] == ["dev", "test"]


@pytest.mark.parametrize(
    ("failing", "named", "skipped"),
    [
        (("pretrain", "mae"), "iac pretrain (mae)", {"vit_mae"}),
        (("evaluate", "cnn"), "iac evaluate (cnn)", set()),
    ],
)
@pytest.mark.usefixtures("quick")
def test_a_failed_step_is_named_and_ends_only_what_needs_it(
    failing: tuple[str, str], named: str, skipped: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    processes, out = Processes(failing), tmp_path / "mine"
    monkeypatch.setattr(workflow, "run_step", processes)
    with pytest.raises(UserError) as caught:
        demo(EXPERIMENTS, out, tmp_path / "data", 30, [])
    assert f"failed: {named}." in str(caught.value)
    trained = {Path(s[1]).stem for s in processes.steps if s[0] != "evaluate"}
    assert trained == {"mae", *MODELS} - skipped
    assert not (out / "results.json").exists()


@pytest.mark.usefixtures("quick")
def test_a_misspelt_setting_is_known_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "make_phantom_cohort", lambda *_, **__: pytest.fail("made"))
    with pytest.raises(UserError, match=r"did you mean trainer.max_epochs"):
        demo(EXPERIMENTS, tmp_path / "a", tmp_path / "b", 30, ["trainer.max_epoch=1"])


def test_a_step_passes_its_lines_and_its_status_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: dict[str, Any] = {}
    popen = subprocess.Popen
    code = (
        "import sys; print('12 mm³'); print('oh', file=sys.stderr, flush=True); assert not sys.stderr.isatty(); exit(3)"
    )

    def replaced(command: list[str], **kwargs: Any) -> subprocess.Popen[str]:
        started.update(command=command, env=kwargs["env"])
        return popen([sys.executable, "-c", code], **kwargs)

    monkeypatch.setattr(subprocess, "Popen", replaced)
    monkeypatch.setattr(workflow, "cores", lambda: 8)
    assert run_step(["evaluate", "runs/a"]) == 3
    assert started["command"][1:] == ["-m", "iac_lightning.cli", "evaluate", "runs/a"]
    assert started["env"]["OMP_NUM_THREADS"] == "4"  # 8 cores, two trainings at once
    assert sorted(capsys.readouterr().out.splitlines()) == ["12 mm³", "oh"]


def test_results_hold_what_is_asked_for(tmp_path: Path) -> None:
    write_evaluations(tmp_path)
    results = collect(tmp_path)
    assert list(results) == ["vit_mae", "vit_scratch", "vit_depth0", "cnn"]
    assert results["vit_depth0"]["dice_mean_tokens"] == 0.02
    assert results["cnn"] == {
        "dice": 0.8,
        "dice_ci95": [0.4, 0.7],
        "threshold": 0.35,
        "volume_icc": 0.9,
        "n_series": 41,
        "n_patients": 27,
        "dice_mean_tokens": None,
    }


def test_the_table_shows_intervals_and_says_that_nothing_is_ranked() -> None:
    entry = {"dice": 0.5123, "dice_ci95": [0.41, 0.6], "volume_icc": 0.876, "n_series": 41, "n_patients": 27}
    entry["dice_mean_tokens"] = 0.0234
    undefined = {"dice": None, "dice_ci95": [None, None], "volume_icc": None, "n_series": 3, "n_patients": 2}
    undefined["dice_mean_tokens"] = None
    text = summary_lines({"vit_mae": entry, "cnn": undefined}, Path("a/index.html"), 90.0)
    head, first, second = text.splitlines()[1:4]
    assert "0.512 [0.410; 0.600]" in first
    assert first.split()[-3:] == ["41", "/", "27"]
    assert "0.88" in first
    assert second.split() == ["cnn", "–", "–", "–", "3", "/", "2"]
    assert head.index("without tokens") < first.index("0.023") < head.index("volume ICC")
    assert head.index("volume ICC") <= first.index("0.88") < head.index("scans")  # stands under its heading
    assert "It ranks nothing." in text
    assert "a/index.html" in text
    assert "1.5 minutes" in text


def test_every_model_has_an_experiment() -> None:
    for name in ("mae", *MODELS):
        assert (EXPERIMENTS / f"{name}.yaml").is_file()
    assert sum(workflow.FRACTIONS.values()) == pytest.approx(1)


def test_the_arm_without_a_transformer_differs_by_that_alone() -> None:
    scratch, without = (load_experiment(EXPERIMENTS / f"{name}.yaml", []) for name in ("vit_scratch", "vit_depth0"))
    assert resolved_vit(without.model.vit)[1] == 0 < resolved_vit(scratch.model.vit)[1]
    without.model.vit.depth, without.name = scratch.model.vit.depth, scratch.name
    assert without == scratch
