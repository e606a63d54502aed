"""From the folder that `iac sweep` leaves to the page, the tables and what they refuse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from data_modules.errors import UserError
from iac_lightning.cli import main
from iac_lightning.report.sweep.files import CELL_COLUMNS
from iac_lightning.runs.looks import looks
from iac_lightning.workflows.reports import sweep as workflow
from iac_lightning.workflows.reports.sweep import all_sweeps, sweep_report
from tests.synthetic_sweep import invented, patch_and_upsampling, write_sweep

AXES = patch_and_upsampling()
AXES = {
    "patch size": {k: v for k, v in AXES["patch size"].items() if k in ("4×4×4", "8×8×8")},
    "upsampling": {k: v for k, v in AXES["upsampling"].items() if k != "pixelshuffle"},
}
MODELS = {
    "model": {
        "vit": ("finetune/vit_mae.yaml", ["data.sampling.samples_per_epoch=100"]),
        "cnn": ("baselines/cnn.yaml", []),
    }
}


@pytest.fixture(scope="module", autouse=True)
def _few_resamples():
    """The pages need no fine percentiles."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("analyse_ablation", "assess_claims", "worths"):
            whole = getattr(workflow, name)
            patch.setattr(workflow, name, lambda *a, whole=whole, **k: whole(*a, resamples=200, **k))
        yield


REPORT = {"baseline": {"upsampling": "interpolation"}, "variants": ["calibrated", "uncalibrated"]}


def expected(levels) -> float:
    return 0.7 - 0.05 * (levels["patch size"] == "8×8×8") + 0.03 * (levels["upsampling"] == "interpolation")


def small(mean, key, levels) -> pd.DataFrame:
    return invented(mean, key, patients=10, seed_sd=0.003)


def models_table(mean, key, levels) -> pd.DataFrame:
    return invented(mean, key, patients=10, bias=0.8 * (levels["model"] == "cnn"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ablation"
    return write_sweep(folder, AXES, expected, table=small, report=REPORT)


@pytest.fixture(scope="module")
def report(sweep) -> Path:
    return sweep_report([sweep], sweep / "report").parent


def text_of(page: Path) -> str:
    html = re.sub(r"<style>.*?</style>", "", (page / "index.html").read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def test_the_answer_comes_first_and_holds_the_effects(report):
    text = text_of(report)
    head = text[: text.index("Design")]
    assert "Which patch size and which upsampling?" in head
    assert "Highest Dice, and established: 4×4×4 (patch size), interpolation (upsampling), calibrated" in head
    assert "8 of 8 trainings (seeds 0, 1) in 4 cells, 18 scans with lesions of 9 patients" in head
    effects = pd.read_csv(report / "effects.csv", keep_default_na=False)
    found = effects[effects["kind"] == "difference"].set_index(["factor", "level"])
    assert found.loc[("patch size", "8×8×8"), "baseline"] == "4×4×4"  # the first level, where none is named
    assert found.loc[("upsampling", "transposed"), "baseline"] == "interpolation"
    assert float(found.loc[("patch size", "8×8×8"), "estimate"]) == pytest.approx(-0.05, abs=0.02)
    assert float(found.loc[("calibration", "calibrated"), "estimate"]) == pytest.approx(0.05)
    assert {"cell", "level", "difference", "interaction", "trend"} == set(effects["kind"])


def test_the_page_needs_no_other_file_and_names_its_command(report):
    html = (report / "index.html").read_text()
    assert not re.findall(r'src="(?!data:)', html)
    assert not re.findall(r"<script|@import|https?://", html)
    assert "iac report" in html
    assert str(report) not in html  # no absolute folder


def test_cells_have_a_row_each(sweep, report):
    cells = pd.read_csv(report / "cells.csv")
    assert len(cells) == 8
    assert [c for c in cells if c not in ("patch size", "upsampling")] == list(CELL_COLUMNS)
    first = cells.iloc[0]
    table = pd.read_csv(sweep / "cell_00_seed0/evaluation/test.csv")
    assert first["dice"] == pytest.approx(table.loc[table["has_lesion"], "dice"].mean())
    assert (first["state"], first["train_seconds"], first["parameters"]) == ("evaluated", 600, 1234567)
    mean = cells[(cells["patch size"] == "4×4×4") & (cells["upsampling"] == "transposed")]["dice"].mean()
    assert first["cell_dice"] == pytest.approx(mean)


def test_the_page_says_what_the_transformer_is_worth(tmp_path):
    scratch = "finetune/vit_scratch.yaml"
    axes = {"model": {"vit": (scratch, []), "flat": (scratch, ["model.vit.depth=0"])}}
    folder = write_sweep(tmp_path / "arms", axes, lambda levels: 0.6 + 0.1 * (levels["model"] == "vit"), table=small)
    page = sweep_report([folder], tmp_path / "page").parent
    (row,) = pd.read_csv(page / "worth.csv").to_dict("records")
    cells = pd.read_csv(page / "cells.csv").groupby("model")["dice"].mean()
    assert row["difference"] == pytest.approx(cells["vit"] - cells["flat"])
    assert (row["part"], row["n_trainings"], row["n_patients"]) == ("transformer", 4, 9)
    text = text_of(page)
    sentence = f"The transformer is worth {row['difference']:+.3f} [{row['low']:+.3f}; {row['high']:+.3f}]".replace(
        "-", "−"
    )
    assert sentence in text[: text.index("Design")]
    assert "What is not compared here for want of an arm: the pre-training" in text
    assert r"\begin{table}" in (page / "worth.tex").read_text()


def test_the_same_inputs_give_the_same_bytes(sweep, report, tmp_path):
    again = sweep_report([sweep], tmp_path / report.name).parent
    assert len(list(again.iterdir())) == 9
    for path in again.iterdir():
        assert path.read_bytes() == (report / path.name).read_bytes(), path.name


def test_latex_tables_use_booktabs_and_escape(report):
    for name in ("cells", "effects", "claims"):
        text = (report / f"{name}.tex").read_text()
        assert text.count(r"\toprule") == text.count(r"\bottomrule") >= 1
        assert r"\caption{" in text
        assert not re.search(r"(?<!\\)[%_&](?![^\n]*\\\\)", text.split("\n", 2)[2].replace("&", "")), name
    assert r"4$\times$4$\times$4" in (report / "cells.tex").read_text()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(report, tmp_path):
    inputs = "".join(rf"\input{{{report / name}.tex}}" for name in ("cells", "effects", "claims"))
    (tmp_path / "x.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{inputs}\end{{document}}"
    )
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"], cwd=tmp_path, check=True)


def test_holes_stay_visible(tmp_path):
    def gone(levels, seed):
        return levels == {"patch size": "8×8×8", "upsampling": "transposed"} or (levels["upsampling"], seed) == (
            "interpolation",
            1,
        )

    folder = write_sweep(tmp_path / "holes", AXES, expected, table=small, missing=gone)
    (folder / "cells").mkdir()
    failed = "patch size=8×8×8,upsampling=transposed,seed=0"
    (folder / "cells" / f"{failed}.json").write_text(json.dumps({"state": "failed", "reason": "out of memory"}))
    text = text_of(sweep_report([folder], tmp_path / "out").parent)
    assert "4 of 8 trainings have no result (3 not run, 1 failed)" in text
    assert "0 of 2 seeds; seed 0 failed: out of memory; seed 1 not run" in text
    assert "1 of 2 seeds; seed 1 not run" in text
    assert "Patch size is averaged over 1 of 2 combinations" in text
    cells = pd.read_csv(tmp_path / "out/cells.csv")
    assert cells.set_index("run").loc[failed, "reason"] == "out of memory"
    assert len(cells) == 8


def test_one_seed_establishes_nothing(tmp_path):
    folder = write_sweep(tmp_path / "once", AXES, expected, table=small, seeds=(0,))
    plan = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(plan | {"caveat": "Few steps."}))
    text = text_of(sweep_report([folder], tmp_path / "out").parent)
    assert "What this cannot say. Few steps. Every cell was trained with one seed" in text
    assert "of networks of a single seed" in text
    assert "how much another seed would change a cell cannot be known" in text
    assert "established: 4×4×4" not in text


def test_one_patient_without_variants(tmp_path):
    def one(mean, key, levels):
        table = invented(mean, key, patients=1)
        return table[[c for c in table if not c.startswith("uncalibrated_")]]

    axes = {"schedule": {"fast": ("finetune/vit_scratch.yaml", []), "slow": ("", ["trainer.max_epochs=20"])}}
    folder = write_sweep(tmp_path / "one", axes, lambda levels: 0.6, table=one, report=REPORT)
    text = text_of(sweep_report([folder], tmp_path / "out").parent)
    assert "1 patient: too few for an interval, so nothing is established." in text
    assert "calibration" not in text.split("Claims")[0]
    effects = pd.read_csv(tmp_path / "out/effects.csv")
    assert set(effects["kind"]) == {"cell", "level", "difference"}  # no number, no second factor
    assert effects["low"].isna().all()


def test_a_pretraining_that_all_seeds_share_is_said(sweep, tmp_path):
    folder = tmp_path / "shared"
    shutil.copytree(sweep, folder)
    plan = json.loads((folder / "sweep.json").read_text())
    before = {"name": "pretrain-0", "kind": "pretrain", "levels": {}, "seed": 0, "run": "pretrain-0", "needs": []}
    before |= {"experiment": "pretrain/mae.yaml", "overrides": [], "config_hash": ""}
    plan |= {"cells": [before, *(cell | {"needs": ["pretrain-0"]} for cell in plan["cells"])]}
    (folder / "sweep.json").write_text(json.dumps(plan))
    said = "All seeds of a cell start from one pre-training"
    assert said in text_of(sweep_report([folder], tmp_path / "out").parent)
    assert said not in text_of(sweep / "report")
    cells = pd.read_csv(tmp_path / "out/cells.csv")
    assert cells["kind"].tolist() == ["pretrain", *["finetune"] * 8]
    assert cells["state"].tolist() == ["not run", *["evaluated"] * 8]


def test_nothing_evaluated_yet(tmp_path):
    folder = tmp_path / "none"
    folder.mkdir()
    write_sweep(folder, AXES, expected, missing=lambda levels, seed: True)
    text = text_of(sweep_report([folder], tmp_path / "out").parent)
    assert "No answer yet: none of the 8 trainings was evaluated on the test split." in text
    assert "5 not tested here" in text


def test_claims_pool_over_sweeps_and_read_the_configs(sweep, report, tmp_path):
    models = write_sweep(
        tmp_path / "models",
        MODELS,
        lambda levels: {"vit": 0.7, "cnn": 0.6}[levels["model"]],
        table=models_table,
        report={"roles": {"model": {"vit": "ViT, MAE", "cnn": "CNN"}}, "risk_cutoffs_mm3": {"low": 40, "medium": 120}},
    )
    page = sweep_report([sweep, models], tmp_path / "out").parent
    claims = pd.read_csv(page / "claims.csv")
    verdicts = dict(zip(claims["claim"].str[:12], claims["verdict"], strict=True))
    assert verdicts["Small patche"] == verdicts["Interpolatio"] == verdicts["The calibrat"] == "supported"
    assert pd.read_csv(report / "claims.csv")["verdict"].tolist()[0] == "not tested here"
    text = text_of(page)
    assert "fixed in the sweep's file" in text
    assert "ViT, MAE" in text
    assert "Cells of all 2 sweeps are pooled" in text
    assert set(pd.read_csv(page / "effects.csv")["sweep"]) == {"ablation", "models"}
    # a recipe of both sweeps would count once; these share none
    assert claims["n_trainings"].tolist()[1] == 8


def test_the_command(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(sweep), "--out", "page"]) == 0
    assert "page/index.html" in capsys.readouterr().out
    assert f"iac report …/{sweep.name} --out page" in (tmp_path / "page/index.html").read_text()
    assert main(["report", str(sweep), "--out", "page", "--split", "dev"]) == 2
    assert "leave --split out" in capsys.readouterr().err
    assert main(["report", str(sweep), str(sweep / "cell_00_seed0"), "--out", "page"]) == 2
    assert "compares either sweeps or runs" in capsys.readouterr().err


def test_refusals(sweep, tmp_path):
    assert not all_sweeps([sweep / "cell_00_seed0"])
    with pytest.raises(UserError, match=r"no sweep here"):
        sweep_report([tmp_path], tmp_path / "out")
    with pytest.raises(UserError, match="more than one sweep is called ablation"):
        sweep_report([sweep, Path(f"{sweep}/../ablation")], tmp_path / "out")
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="not what `iac sweep` writes"):
        sweep_report([tmp_path], tmp_path / "out")
    other = write_sweep(
        tmp_path / "other", MODELS, lambda levels: 0.6, table=lambda m, k, levels: invented(m, k, patients=10, cohort=1)
    )
    with pytest.raises(UserError, match="same scans"):
        sweep_report([sweep, other], tmp_path / "out")


def test_a_page_about_the_test_split_is_a_look_at_every_cell(sweep, report):
    evaluated = [path.parent.parent for path in sweep.rglob("evaluation/test.csv")]
    assert evaluated
    for directory in evaluated:
        assert {look["what"] for look in looks(directory)} == {"sweep report"}


def folded(sweep: Path, folder: Path) -> Path:
    """The same results as if each run had been two, each evaluated on the patients that it held out."""
    plan = json.loads((sweep / "sweep.json").read_text())
    cells = []
    for cell in plan["cells"]:
        table = pd.read_csv(sweep / cell["run"] / "evaluation" / "test.csv")
        number = table["patient_id"].str[1:].astype(int)
        for fold in (0, 1):
            run = f"{cell['run']}_fold{fold}"
            shutil.copytree(sweep / cell["run"], folder / run, ignore=shutil.ignore_patterns("test.*"))
            table[number % 2 == fold].to_csv(folder / run / "evaluation" / "dev.csv", index=False)
            cells.append({**cell, "name": f"{cell['name']},fold={fold}", "run": run, "fold": fold})
    data = plan | {"name": folder.name, "split": "dev", "folds": 2, "cells": cells}
    (folder / "sweep.json").write_text(json.dumps(data, ensure_ascii=False))
    return folder


def test_folds_are_one_training_measured_once_on_each_patient(sweep, report, tmp_path):
    page = sweep_report([folded(sweep, tmp_path / "folds")], tmp_path / "report").parent
    names = ["factor", "level", "estimate", "low", "high", "p", "n_trainings"]
    together, whole = (pd.read_csv(folder / "effects.csv")[names] for folder in (page, report))
    pd.testing.assert_frame_equal(together, whole)
    cells = pd.read_csv(page / "cells.csv")
    assert cells["fold"].tolist() == [0, 1] * 8
    assert (
        cells["dice"].tolist()[::2]
        == cells["dice"].tolist()[1::2]
        == pd.read_csv(report / "cells.csv")["dice"].tolist()
    )
    assert "2 folds, each patient by the run that has not seen it, 16 of 16 trainings" in text_of(page)
    claims = [pd.read_csv(folder / "claims.csv")[["claim", "verdict", "estimate"]] for folder in (page, report)]
    pd.testing.assert_frame_equal(*claims)


def test_a_training_of_which_a_fold_lacks_does_not_count(sweep, tmp_path):
    folder = folded(sweep, tmp_path / "folds")
    (folder / "cell_00_seed0_fold1" / "evaluation" / "dev.csv").unlink()
    page = sweep_report([folder], tmp_path / "report").parent
    cells = pd.read_csv(page / "cells.csv").set_index("run")
    lacking = cells[cells["dice"].isna()]
    assert [name.rsplit(",", 1)[0] for name in lacking.index] == ["patch size=4×4×4,upsampling=transposed,seed=0"] * 2
