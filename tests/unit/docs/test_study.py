"""The study: arms that differ in one thing alone, and a page that says what its tables say."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from iac_lightning.config.stored import decisive_settings
from iac_lightning.sweeps.cells import Cell, cells
from iac_lightning.sweeps.spec import read_sweep
from tests.integration.settings import REPOSITORY
from tests.synthetic_sweep import invented, write_sweep

STUDIES = sorted((REPOSITORY / "experiments" / "study").glob("study*.yaml"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study", REPOSITORY / "docs" / "results" / "study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DRAW["resamples"] = 400
    return module


def others(one: Cell, two: Cell) -> set[str]:
    """Settings by which two cells differ, their names apart."""
    a, b = decisive_settings(one.config), decisive_settings(two.config)
    return {key for key in a if a[key] != b[key]} - {"name"}


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_arms_differ_in_one_thing_alone(path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    spec = read_sweep(path.relative_to(REPOSITORY))
    assert spec.name == path.stem
    assert len(spec.seeds) >= 3
    found = cells(spec)
    first = {c.levels["arm"]: c for c in found if c.kind == "finetune" and c.seed % 1000 == 0}
    compared = {arm for weights in script.CONTRASTS.values() for arm in weights}
    assert set(first) == set(spec.axes["arm"])
    assert others(first["ViT, scratch"], first["no transformer"]) == {"model.vit.depth"}
    for kind in ("ViT", "CNN"):
        assert others(first[f"{kind}, MAE"], first[f"{kind}, scratch"]) == {"init_from"}
    if path.stem == "study_cpu_hour":  # the question alone
        assert set(first) < compared
    else:
        assert set(first) == compared
        assert others(first["ViT, scratch"], first["ViT, scratch, again"]) == {"seed"}
        assert others(first["ViT, MAE"], first["ViT, MAE, large tokens"]) == {"model.vit.patch_size", "init_from"}
        assert others(first["ViT, MAE"], first["ViT, MAE, transposed"]) == {"model.decoder.upsampling"}

    def seen(cell: Cell) -> int:
        return cell.config.data.sampling.samples_per_epoch * cell.config.trainer.max_epochs

    assert len({seen(cell) for arm, cell in first.items() if arm != "rule"}) == 1
    before = [cell for cell in found if cell.kind == "pretrain"]
    assert len(before) == len({cell.name.rpartition("_seed")[0] for cell in before}) * len(spec.seeds)
    assert len({seen(cell) for cell in before}) == 1
    assert {cell.config.model.name for cell in before} == {"vit", "cnn"}
    for cell in found:
        patch, spacing = cell.config.model.vit.patch_size, cell.config.data.grid.spacing_mm
        token_mm = [p * s for p, s in zip(patch, spacing, strict=True)]
        assert cell.config.model.name != "vit" or max(token_mm) / min(token_mm) < 1.3, (
            "tokens are about as long as wide"
        )


MEANS = {"ViT, MAE": 0.70, "ViT, scratch": 0.60, "ViT, scratch, again": 0.60, "no transformer": 0.60, "CNN, MAE": 0.65}
MEANS |= {"CNN, scratch": 0.65, "rule": 0.3, "ViT, MAE, large tokens": 0.6, "ViT, MAE, transposed": 0.68}


def arm_table(mean: float, key: Sequence[int], levels: Mapping[str, str]) -> pd.DataFrame:
    return invented(mean, key, patients=20, seed_sd=0.002, scan_sd=0.01)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of every arm but one, a pre-training, and heads re-imaged, on which Dice falls by 0.02 a mm."""
    arms: dict[str, Any] = {
        name: ("baselines/cnn.yaml" if name.startswith("CNN") else "finetune/vit_scratch.yaml", []) for name in MEANS
    }
    folder = write_sweep(
        tmp_path_factory.mktemp("runs") / "study_x",
        {"arm": arms},
        lambda levels: MEANS[levels["arm"]],
        seeds=(0, 1, 2),
        table=arm_table,
    )
    plan = json.loads((folder / "sweep.json").read_text())
    for cell in plan["cells"]:
        run = folder / cell["run"]
        worth = {"mean_tokens": {"difference": {"mean": 0.25}}} if cell["levels"]["arm"] == "ViT, MAE" else {}
        (run / "evaluation" / "test.json").write_text(json.dumps({"volume_icc": {"value": 0.9}, "controls": worth}))
        table = pd.read_csv(run / "evaluation" / "test.csv")
        (run / "stress").mkdir()
        thick = [table.assign(slice_thickness_mm=mm, dice=table["dice"] - 0.02 * mm) for mm in (1.0, 3.0, 6.0)]
        pd.concat(thick).to_csv(run / "stress" / "test.csv", index=False)
    before = {"name": "pretrain_seed0", "kind": "pretrain", "levels": {}, "seed": 0, "run": "before"}
    (folder / "before" / "logs").mkdir(parents=True)
    (folder / "before" / "finished.json").write_text("{}")
    rows = [{"epoch": 0, "dev/r2": 0.1, "train/loss": 1}, {"epoch": 1, "dev/r2": 0.25, "dev/probe_auc": 0.8}]
    (folder / "before" / "logs" / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan |= {"cells": [before, *plan["cells"]], "caveat": "Nobody trained it."}
    (folder / "sweep.json").write_text(json.dumps(plan))
    return folder


def test_the_page_says_what_the_tables_say(script: ModuleType, sweep: Path, tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    page.write_text("# A\n<!-- study: begin study_x -->\nNot run yet.\n<!-- study: end study_x -->\nend\n")
    script.main(sweep, page)
    text = page.read_text()
    assert text.startswith(
        "# A\n<!-- study: begin study_x -->\nTest split, 36 scans with lesions of 18 patients; 25 trainings"
    )
    assert text.endswith("<!-- study: end study_x -->\nend\n")
    assert "Not run yet" not in text
    rows = {
        cells[1].strip(): [c.strip() for c in cells[2:-1]]
        for line in text.splitlines()
        if (cells := line.split("|"))[1:]
    }
    tables = [pd.read_csv(sweep / f"cell_00_seed{k}" / "evaluation" / "test.csv") for k in range(3)]
    mean = np.mean([t.loc[t["has_lesion"], "dice"].mean() for t in tables])
    seeds, dice, _, slope, icc, tokens, attention = rows["ViT, MAE"]
    assert (seeds, icc, tokens, attention) == ("3", "0.900", "+0.250", "–")
    assert dice.startswith(f"{mean:.3f} [")
    assert slope == "-0.020 [-0.020; -0.020]"
    assert rows["rule"][0] == "1"
    gain, *_, verdict = rows["pre-training, ViT: MAE − scratch"]
    assert float(gain.split()[0]) == pytest.approx(0.1, abs=0.01)
    assert verdict == "above 0"
    *_, verdict = rows["identity control: the same with other seeds"]
    assert verdict == "no difference told"
    assert "small − large tokens, pre-trained" not in rows, "an arm is not there"
    assert rows["pretrain_seed0"] == ["0.250", "0.800"]
    assert "iac sweep" in text, "its report lacks"
    script.main(sweep, page)
    assert page.read_text() == text


def test_a_page_without_its_marks_is_left_alone(script: ModuleType, sweep: Path, tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    page.write_text("nothing")
    with pytest.raises(SystemExit, match=re.escape("expected one line <!-- study: begin study_x -->")):
        script.main(sweep, page)
    assert page.read_text() == "nothing"


def test_the_project_s_page_has_a_place_for_each_size() -> None:
    text = (REPOSITORY / "docs" / "results" / "study.md").read_text()
    for path in STUDIES:
        assert text.index(f"<!-- study: begin {path.stem} -->") < text.index(f"<!-- study: end {path.stem} -->")
