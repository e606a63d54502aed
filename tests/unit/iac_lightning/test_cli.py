"""Every command: what it calls, what it prints, and how it fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_modules.errors import UserError
from iac_lightning import arguments, cli
from iac_lightning.cli import main, parse
from iac_lightning.config.reading import load_experiment

ROOT = Path(__file__).parents[3]
MAE = str(ROOT / "experiments/demo/mae.yaml")
VIT = str(ROOT / "experiments/demo/vit_scratch.yaml")


class Recorder:
    """Stands in for a workflow: keeps what it was called with."""

    def __init__(self, result: Any = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.result = result

    def __call__(self, *args: Any) -> Any:
        self.calls.append(args)
        return self.result


@pytest.fixture
def a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_run` gives the path itself, so that wiring can be seen without runs."""
    monkeypatch.setattr("iac_lightning.runs.directory.load_run", lambda path, overrides=(): ("run", path, *overrides))


def isolated(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, from the repository's root."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )


# --- parser -----------------------------------------------------------------------------------------------------


def test_every_command_has_help_and_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in ("phantom", "split", "prepare", "pretrain", "finetune", "evaluate", "predict", "plan", "config"):
        assert f"\n    {name} " in text
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
    assert (ROOT / "experiments/finetune/vit_mae.yaml").is_file()  # the example that the help names
    assert "experiments/finetune/vit_mae.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["seed=1", "data.batch_size=2", "--dry-run"],
        ["--dry-run", "seed=1", "data.batch_size=2"],
        ["seed=1", "--dry-run", "data.batch_size=2"],
    ],
)
def test_settings_stand_on_either_side_of_options(words: list[str]) -> None:
    arguments = parse(["pretrain", "a.yaml", *words])
    assert arguments.experiment == Path("a.yaml")
    assert arguments.overrides == ["seed=1", "data.batch_size=2"]
    assert arguments.dry_run


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "COMMAND"),
        (["pretrain"], "experiment"),
        (["pretrain", "a.yaml", "--seed=1"], "--seed=1"),
        (["evaluate", "runs/a", "--split", "finetune"], "'finetune'"),
        (["predict", "scan.nii.gz", "out"], "--run"),
        (["trian", "a.yaml"], "trian"),
    ],
)
def test_a_mistake_on_the_command_line_is_status_2(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


# --- errors -----------------------------------------------------------------------------------------------------


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def raising(_: Any) -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "plan", raising)
    monkeypatch.setattr(cli, "parse", lambda _: SimpleNamespace(command="plan"))
    return main([])


def test_a_user_error_is_one_line_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail_with(monkeypatch, UserError("scan.nii.gz: is empty. Give another.")) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: scan.nii.gz: is empty. Give another.\n")


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(monkeypatch, KeyboardInterrupt()) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_a_full_disk_is_one_line_whatever_was_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, name in ((OSError(28, "No space", "runs/a.bin"), "runs/a.bin"), (OSError(28, "No space"), "a file")):
        assert fail_with(monkeypatch, error) == 2
        text = capsys.readouterr().err
        assert text.startswith(f"error: {name}: the disk has no room for it (")
        assert text.count("\n") == 1
    with pytest.raises(PermissionError):
        fail_with(monkeypatch, PermissionError(13, "Permission denied"))


def test_a_defect_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_with(monkeypatch, ZeroDivisionError())


# --- experiments ------------------------------------------------------------------------------------------------


def test_config_prints_what_reads_back_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", VIT, "seed=7", "data.sampling.crop=[32,32,16]"]) == 0
    path = tmp_path / "all.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_experiment(path) == load_experiment(Path(VIT), ["seed=7", "data.sampling.crop=[32,32,16]"])
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
        "x 50 is not a multiple of 8 (use 48 or 56)",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "experiment", "right"), [("finetune", MAE, "iac pretrain"), ("pretrain", VIT, "iac finetune")]
)
def test_a_task_of_the_other_command_names_it(
    command: str, experiment: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, experiment]) == 2
    assert f"Use: {right} {experiment}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["plan", VIT], ["finetune", VIT, "--dry-run"], ["pretrain", MAE, "--dry-run"]], ids=lambda w: w[0]
)
def test_a_dry_run_needs_no_data_and_leaves_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "data.cohort=nowhere.csv", "data.sampling.crop=[16,16,16]"]) == 0
    text = capsys.readouterr().out
    for word in ("parameters", "memory", "steps", "tokens       2 × 2 × 2 = 8"):
        assert word in text
    assert list(tmp_path.iterdir()) == []


def test_training_gets_the_checked_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recorder()
    monkeypatch.setattr("iac_lightning.workflows.train.train", train)
    assert main(["pretrain", MAE, "seed=3"]) == 0
    assert main(["finetune", VIT]) == 0
    (first,), (second,) = train.calls
    assert (first.task, first.seed) == ("pretrain", 3)
    assert second == load_experiment(Path(VIT))


def test_prepare_prepares_the_experiments_cohort(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SimpleNamespace(series=(1, 2), n_withheld=1, directory=Path("prepared/abc"), failed={"d": "damaged"})
    store.warnings = {"a": ("odd", "tilted"), "b": ("odd",)}
    prepare, listed = Recorder(store), Recorder(Path("prepared/abc/warnings.csv"))
    monkeypatch.setattr("data_modules.prepare.store.prepare_cohort", prepare)
    monkeypatch.setattr("data_modules.prepare.store.list_warnings", listed)
    assert main(["prepare", MAE, "data.cohort=mine.csv"]) == 0
    assert prepare.calls[0][0].cohort == "mine.csv"
    assert capsys.readouterr().out.splitlines() == [
        "3 series in prepared/abc",
        "2 of them carry warnings: prepared/abc/warnings.csv",
        "1 more could not be prepared: prepared/abc/failed.csv",
    ]
    assert listed.calls == [(store,)]


# --- the other commands -----------------------------------------------------------------------------------------


def test_phantom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = Recorder(tmp_path / "cohort.csv")
    monkeypatch.setattr("data_modules.phantom.cohort.make_phantom_cohort", make)
    assert (
        main(["phantom", str(tmp_path), "--patients", "5", "--seed", "9", "--workers", "1", "--max-series", "2"]) == 0
    )
    assert make.calls == [(tmp_path, 5, 9, 1, 2)]
    assert capsys.readouterr().out == f"{tmp_path / 'cohort.csv'}\n{tmp_path / 'contact_sheet.png'}\n"


def test_impossible_phantoms_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", str(tmp_path / "a"), "--max-series", "4"]) == 2
    assert "max_series is 4; expected from 1 to 3" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def cohort_without_splits(folder: Path, patients: int) -> Path:
    rows = ["patient_id,series_id,image,label,split,slice_thickness_mm,spacing_x_mm,spacing_y_mm,spacing_z_mm,kernel"]
    rows[0] += ",manufacturer,true_volume_mm3"
    for k in range(patients):
        for s in range(2):
            rows.append(f"P{k:02d},P{k:02d}_{s},P{k}_{s}.nii.gz,,,{1 + 4 * s},0.5,0.5,{1 + 4 * s},soft,X,{10 * k}")
            (folder / f"P{k}_{s}.nii.gz").touch()
    path = folder / "cohort.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_split_fills_empty_splits_by_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cohort_without_splits(tmp_path, 10)
    shares = ["pretrain=0.4", "finetune=0.3", "dev=0.1", "test=0.2"]
    assert main(["split", str(path), "--seed", "1", "--fractions", *shares]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "pretrain: 4 patients, 8 series",
        "finetune: 3 patients, 6 series",
        "dev: 1 patients, 2 series",
        "test: 2 patients, 4 series",
    ]
    once = path.read_bytes()
    assert main(["split", str(path), "--seed", "2", "--fractions", *shares]) == 0  # what is assigned stays
    assert path.read_bytes() == once


@pytest.mark.parametrize(
    ("shares", "complaint"),
    [
        (["dev"], "'dev' is not split=share"),
        (["dev=many"], "'dev=many' is not split=share"),
        (["dve=1"], "unknown split 'dve'"),
        (["dev=0.5", "test=0.2"], "sum to 0.7"),
    ],
)
def test_split_refuses_shares_and_leaves_the_table(
    shares: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cohort_without_splits(tmp_path, 4)
    before = path.read_bytes()
    assert main(["split", str(path), "--fractions", *shares]) == 2
    assert complaint in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.usefixtures("a_run")
def test_evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figure = {"mean": 0.5, "ci95": [0.4, 0.6]}
    names = ("dice", "sensitivity", "ppv", "lesion_f1", "volume_icc")
    summary = {"run": "cnn", "split": "dev", "n_series": 3, "n_patients": 2, **dict.fromkeys(names, figure)}
    evaluate = Recorder(summary)
    monkeypatch.setattr("iac_lightning.workflows.evaluate.evaluate", evaluate)
    launch = Recorder(None)
    monkeypatch.setattr("iac_lightning.cluster.sharding.launch", launch)
    assert main(["evaluate", "runs/cnn", "--split", "dev"]) == 0
    assert evaluate.calls == [(("run", Path("runs/cnn")), "dev")]
    text = capsys.readouterr().out
    assert "cnn, dev: 3 scans of 2 patients" in text
    assert "dice 0.500 [0.400; 0.600]" in text
    assert "runs/cnn/evaluation/dev.csv" in text
    assert main(["evaluate", "runs/cnn", "inference.mirror=true", "--devices", "3"]) == 0
    assert [devices for _, devices in launch.calls] == [None, 3]
    assert evaluate.calls[1] == (("run", Path("runs/cnn"), "inference.mirror=true"), "test")
    assert main(["evaluate", "--predictions", "p", "--cohort", "c.csv", "inference.mirror=true"]) == 2


@pytest.mark.usefixtures("a_run")
def test_predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    predict = Recorder({"warnings": ["two slices missing"], "volume_mm3": 12.34, "n_lesions": 2})
    monkeypatch.setattr("iac_lightning.workflows.calibrate.load_calibrated", lambda run: run)
    monkeypatch.setattr("iac_lightning.workflows.bundle.load_bundle", lambda path: ("bundle", path))
    monkeypatch.setattr("iac_lightning.workflows.predict.predict", predict)
    words = ["--run", "runs/a", "--template", "t.nii.gz", "--series", "3", "--slice-thickness-mm", "5"]
    assert main(["predict", "scan", "out", *words]) == 0
    assert predict.calls == [(Path("scan"), Path("out"), ("run", Path("runs/a")), Path("t.nii.gz"), "3", 5.0)]
    assert capsys.readouterr().out.splitlines() == [
        "warning: two slices missing",
        "12.3 mm³ in 2 lesions; see out/overlay.png",
    ]
    assert main(["predict", "scan", "out", "--bundle", "b"]) == 0
    assert predict.calls[1] == (Path("scan"), Path("out"), ("bundle", Path("b")), None, None, None)
    with pytest.raises(SystemExit):
        main(["predict", "scan", "out", "--bundle", "b", "--run", "runs/a"])


@pytest.mark.usefixtures("a_run")
def test_export_is_of_a_run_or_of_a_cohort(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    export, logged = Recorder(Path("b")), Recorder()
    nnunet = Recorder(SimpleNamespace(directory=Path("raw"), n_train=1, n_val=2, n_test=3))
    monkeypatch.setattr("iac_lightning.workflows.bundle.export_bundle", export)
    monkeypatch.setattr("iac_lightning.workflows.mlflow_model.log_bundle", logged)
    monkeypatch.setattr("iac_lightning.workflows.external.nnunet.export_nnunet", nnunet)
    for words in (["runs/a", "b"], ["bundle", "runs/a", "b"]):
        assert main(["export", *words]) == 0
        assert export.calls.pop() == (("run", Path("runs/a")), Path("b"))
        assert logged.calls.pop() == (("run", Path("runs/a")),)
        assert "iac predict SCAN OUT --bundle b" in capsys.readouterr().out
    assert main(["export", "nnunet", "cohort.csv", "raw"]) == 0
    assert nnunet.calls == [(Path("cohort.csv"), Path("raw"), 501, "IAC", False)]
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "iac export RUN OUT" in capsys.readouterr().out


def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["evaluate", str(tmp_path / "a")], ["predict", "x.nii.gz", "out", "--run", str(tmp_path / "a")]):
        assert main(words) == 2
        assert "there is no such directory" in capsys.readouterr().err


@pytest.mark.usefixtures("a_run")
def test_stress_takes_runs_thicknesses_and_a_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stress = Recorder([{"run": "a"}])
    monkeypatch.setattr("iac_lightning.workflows.stress.stress", stress)
    monkeypatch.setattr("iac_lightning.workflows.stress.describe", lambda summary: f"{summary['run']}: 3 heads")
    assert main(["stress", "runs/a", "runs/b", "--thickness", "2", "5.5", "--split", "dev", "--out", "page"]) == 0
    assert main(["stress", "runs/a"]) == 0
    runs = [("run", Path("runs/a")), ("run", Path("runs/b"))]
    assert stress.calls == [
        (runs, "dev", [2.0, 5.5], Path("page"), 1.0),
        (runs[:1], "test", [1.0, 2.0, 3.0, 5.0, 8.0], None, 1.0),
    ]
    text = capsys.readouterr().out
    for word in ("a: 3 heads", "runs/b/stress/dev.csv", "page/index.html", "runs/a/stress/test.csv"):
        assert word in text


@pytest.mark.usefixtures("a_run")
def test_report_demo_and_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report, demo, bench = Recorder(Path("page/index.html")), Recorder(), Recorder()
    monkeypatch.setattr("iac_lightning.workflows.reports.models.report", report)
    monkeypatch.setattr("iac_lightning.workflows.demo.demo", demo)
    monkeypatch.setattr("benchmarks.bench.bench", bench)
    assert main(["report", "runs/a", "runs/b", "--out", "page"]) == 0
    assert report.calls == [([("run", Path("runs/a")), ("run", Path("runs/b"))], Path("page"), "test")]
    assert "page/index.html" in capsys.readouterr().out
    assert main(["demo", "--patients", "30", "--out", "runs/x", "--data", "data/x", "trainer.max_epochs=2"]) == 0
    assert demo.calls == [(Path("experiments/demo"), Path("runs/x"), Path("data/x"), 30, ["trainer.max_epochs=2"])]
    assert main(["bench", "--scan", "ct"]) == 0
    assert bench.calls == [(Path("bench.json"), Path("ct"), None, None, 2, 40)]


def test_ui_serves_this_machine_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ui", "--runs-dir", str(tmp_path)]) == 2
    assert "Train first" in capsys.readouterr().err
    (tmp_path / "mlflow.db").touch()
    started = Recorder(0)
    monkeypatch.setattr(subprocess, "call", started)
    assert main(["ui", "--runs-dir", str(tmp_path)]) == 0
    (command,) = started.calls[0]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "http://127.0.0.1:5000" in capsys.readouterr().out

    def stopped(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "call", stopped)
    assert main(["ui", "--runs-dir", str(tmp_path)]) == 0


def test_the_module_runs_as_a_program() -> None:
    """`python -m iac_lightning.cli` is how the demo and the ranks of DDP start commands."""
    command = [sys.executable, "-m", "iac_lightning.cli", "config"]
    good = subprocess.run([*command, MAE, "name=a"], cwd=ROOT, capture_output=True, text=True)
    assert (good.returncode, good.stdout[:8]) == (0, "name: a\n")
    bad = subprocess.run([*command, MAE, "nmae=a"], cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 2
    assert "did you mean name?" in bad.stderr


def test_every_command_has_a_function() -> None:
    text = Path(arguments.__file__).read_text(encoding="utf-8")
    named = set(re.findall(r'set_defaults\(command="(\w+)"', text))
    assert named | {"config", "plan", "prepare", "pretrain", "finetune"} == set(cli.COMMANDS)
