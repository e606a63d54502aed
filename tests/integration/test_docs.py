"""Commands in the documentation: every one is understood, and one tutorial is followed from end to end."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import yaml

from data_modules.cohort.table import COLUMNS as COHORT_COLUMNS
from data_modules.cohort.table import OPTIONAL_COLUMNS
from data_modules.config import DataConfig
from data_modules.prepare.preparation import prepare_cohort
from iac_lightning.cli import build_parser, main, parse
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.stored import config_dict
from iac_lightning.config.values import read_yaml
from iac_lightning.evaluation.tables.series_table import COLUMNS
from iac_lightning.sweeps.spec import read_sweep
from iac_lightning.workflows.predict import RESULT
from tests.integration.dicom_folders import write_folders
from tests.integration.doc_commands import (
    PAGES,
    REPOSITORY,
    Block,
    blocks,
    commands,
    iac_words,
    inline_code,
    write_files,
)

TUTORIAL = Path("docs/tutorials/your-own-scans.md")
ALL = [(block, words) for page in PAGES for block in blocks(page) for words in commands(block)]
SMALL = """
data:
  grid: {template: null, spacing_mm: [1.6, 1.6, 3.2]}
  sampling: {crop: [16, 16, 8], samples_per_epoch: 8}
  prepare_workers: 1
model:
  vit: {dim: 24, depth: 2, heads: 2}
  decoder: {channels: 4}
  mae: {decoder_dim: 24, decoder_heads: 2}
  cnn: {base_features: 4}
trainer: {accelerator: cpu, max_epochs: 1}
tracking: {enabled: false}
"""
"""What a test puts over a tutorial's settings: regions instead of whole heads, and seconds instead of hours."""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the experiments and all files that the pages show, as a reader has it."""
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    write_files(PAGES, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def where(block: Block, words: list[str]) -> str:
    return f"{block.page}:{block.line}: {' '.join(words)}"


def problem_of(words: list[str]) -> str:
    """What is wrong with a command of `iac`; empty where nothing is."""
    try:
        arguments = parse(words)
    except SystemExit as stopped:
        return "" if stopped.code == 0 else "the parser refuses it (see its message above)"
    settings = [word for word in (*vars(arguments).get("overrides", []), *_words(arguments, "runs")) if "=" in word]
    missing = [w for w in words if w.startswith("experiments/") and not (REPOSITORY / w).exists()]
    if missing:
        return f"{missing[0]} does not exist"
    try:
        if arguments.command.name == "sweep":
            read_sweep(arguments.sweep, arguments.overrides)
        else:
            experiment = vars(arguments).get("experiment")
            load_experiment(experiment, settings if experiment else ["name=documented", *settings])
    except Exception as error:
        return str(error)
    return ""


def _words(arguments: Any, name: str) -> list[str]:
    value = vars(arguments).get(name)
    return [str(word) for word in value] if isinstance(value, list) else []


@pytest.mark.usefixtures("workplace")
def test_every_iac_command_is_understood() -> None:
    found = [(block, words, given) for block, words in ALL if (given := iac_words(words)) is not None]
    assert len(found) > 40
    wrong = [f"{where(block, words)}\n    {text}" for block, words, given in found if (text := problem_of(given))]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_command_is_noticed(workplace: Path) -> None:
    assert problem_of(["evaluate", "runs/my_vit", "--splits", "test"])
    assert "did you mean" in problem_of(["pretrain", "my/mae.yaml", "trainer.epochs=3"])
    assert "does not exist" in problem_of(["plan", "experiments/pretrain/vit.yaml"])
    assert "unknown" in problem_of(["report", "runs/a", "runs/b", "--out", "page", "evaluation.strata=[1]"])
    assert not problem_of(["pretrain", "my/mae.yaml", "trainer.max_epochs=3"])


def test_make_targets_and_variables_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
    variables = set(re.findall(r"\$\((?:or \$\()?([A-Z_]+)\)", makefile))
    makes = [(block, words) for block, words in ALL if words[0] == "make"]
    assert len(makes) > 5
    for block, words in makes:
        for word in words[1:]:
            name, is_variable, value = word.partition("=")
            assert name in (variables if is_variable else targets), where(block, words)
            if value.startswith("experiments/"):
                assert (REPOSITORY / value).exists(), where(block, words)
            if name == "ARGS":
                load_experiment(None, ["name=documented", *(w for w in value.split() if "=" in w)])


def test_settings_and_commands_in_the_text_exist() -> None:
    tree = yaml.safe_load(json.dumps(_defaults()))
    known = set(next(a for a in build_parser()._actions if a.dest == "command" or a.choices).choices or ())
    wrong = []
    for page in PAGES:
        for line, text in inline_code(page):
            keys = re.findall(r"(?<![\w./-])((?:\w+\.)+\w+)(?==|$|\s)", text)
            own = [key for key in keys if isinstance(tree.get(key.split(".")[0]), dict)]
            unknown = [key for key in own if not key.endswith((".json", ".yaml")) and not _has(tree, key.split("."))]
            wrong += [f"{page}:{line}: no setting {key}" for key in unknown]
            command = re.match(r"iac ([a-z][a-z-]*)", text)
            if command and command[1] not in known:
                wrong.append(f"{page}:{line}: no command {text}")
    assert not wrong, "\n".join(wrong)


def _defaults() -> dict[str, Any]:
    return config_dict(load_experiment(None, ["name=documented"]))


def _has(tree: Any, parts: list[str]) -> bool:
    for part in parts:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def test_links_between_files_of_the_repository_lead_somewhere() -> None:
    for page in PAGES:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (REPOSITORY / page.parent / target).exists(), f"{page}: {target}"


MAP = Path("docs/contributing")


def test_files_that_contributing_names_exist() -> None:
    for page in (page for page in PAGES if page.is_relative_to(MAP)):
        for line, text in inline_code(page):
            if re.match(r"(data_modules|iac_lightning|tests|docs|experiments|benchmarks)/", text):
                assert (REPOSITORY / text).exists(), f"{page}:{line}: {text}"
    (tree,) = (block for block in blocks(MAP / "index.md") if block.language == "text")
    parents = {0: REPOSITORY}
    for line in tree.text.splitlines():
        depth = len(line) - len(line.lstrip())
        for name in line.strip().partition("  ")[0].split():
            path = parents[depth] / name
            assert path.exists(), f"the map: {path.relative_to(REPOSITORY)}"
            parents[depth + 2] = path


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    """The hook that MkDocs loads."""
    spec = importlib.util.spec_from_file_location("generated", REPOSITORY / "docs/hooks/generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_has_a_section(generated: ModuleType) -> None:
    page = generated.settings()
    leaves = re.findall(r"^([a-z_.0-9]+)$", "\n".join(_leaves(_defaults())), re.M)
    assert len(leaves) > 100
    headings = re.findall(r"^#### `([^`]+)`", page, re.M)
    assert sorted(headings) == sorted(leaves)
    for key, facts, meaning in re.findall(r"^#### `([^`]+)`[^\n]*\n\n([^\n]+)\n{[^\n]+\n\n([^\n]+)", page, re.M):
        assert meaning[-1] in ".…", key
        assert "default" in facts, key
        numbers = ("whole number", "number", "list of whole numbers", "list of numbers")
        assert not facts.startswith(numbers), f"{key}: nothing says what is allowed"


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return found


def test_every_command_and_argument_is_described(generated: ModuleType) -> None:
    page = generated.commands()
    for name, command, does in generated.walk(generated.parser()):
        assert does, f"{name} says nothing of what it does"
        assert f"## {name} " in page
        for action in command._actions:
            assert action.help, f"{name}: {action.dest} has no help"
    assert page.count("\n:   ") > 60
    assert "\n:   \n" not in page


def test_every_mark_of_a_page_is_known(generated: ModuleType) -> None:
    for page in PAGES:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        if page.is_relative_to("docs"):
            text = re.sub(r"`[^`]*`", "", text)
            assert "<!-- generated" not in generated.on_page_markdown(text), page
    with pytest.raises(KeyError):
        generated.generate("no-such-thing")


def test_descriptions_are_safe_in_markdown(generated: ModuleType) -> None:
    assert generated.prose("a|b <c> and `<d>|e*`, 2*x") == r"A&#124;b &lt;c> and `<d>|e*`, 2\*x."
    assert generated.prose("adamw: decoupled", ["adamw"]) == "adamw: decoupled."


def test_your_own_scans_end_in_a_report(workplace: Path, phantom_cohort: Path) -> None:
    """The tutorial's blocks that are marked to run, on phantoms as folders of DICOM, at a small size."""
    write_folders(phantom_cohort, workplace / "my")
    data = Path("my/data.yaml")
    data.write_text(yaml.safe_dump(_merged(read_yaml(data.read_text()), read_yaml(SMALL))), encoding="utf-8")
    done = []
    for block in (b for b in blocks(TUTORIAL) if b.runs):
        for words in commands(block):
            done.append(words[:2])
            if (given := iac_words(words)) is not None:
                if "--template" in given:  # these scans are regions already
                    del given[given.index("--template") : given.index("--template") + 2]
                assert main(given) == 0, where(block, words)
            elif words[0] == "python":
                runpy.run_path(words[1], run_name="__main__")
            else:
                raise AssertionError(f"{where(block, words)}: do not know how to run this")
    assert [w[1] for w in done if w[0] == "iac"].count("evaluate") >= 2
    cohort = pd.read_csv("my/cohort.csv")
    assert set(cohort) <= {*COHORT_COLUMNS, *OPTIONAL_COLUMNS}
    table = pd.read_csv("runs/my_vit/evaluation/test.csv")
    assert list(table)[: len(COLUMNS)] == list(COLUMNS)
    assert set(json.loads(Path("out/result.json").read_text())) == set(RESULT)
    assert Path("my_report/index.html").stat().st_size > 50_000


def test_a_cohort_opens_with_torchio(workplace: Path, phantom_cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "data").mkdir(exist_ok=True)
    (workplace / "data" / "phantom").symlink_to(phantom_cohort.parent)
    prepare_cohort(DataConfig(prepare_workers=1), ("finetune",))
    (block,) = (b for b in blocks(Path("docs/explanation/augmentation.md")) if b.runs)
    exec(compile(block.text, str(block.page), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("(100, 80, 30)" in line and line.endswith("voxels of calcium") for line in lines)


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _merged(below.get(key), value) for key, value in above.items()}


@pytest.mark.slow
def test_the_first_run_at_a_reduced_size(workplace: Path) -> None:
    """The tutorial's marked blocks in a shell, `make demo` as what it calls."""
    bin_ = workplace / "bin"
    bin_.mkdir()
    script = f'#!/bin/sh\nexec {sys.executable} -m iac_lightning.cli "$@"\n'
    (bin_ / "iac").write_text(script)
    small = "--patients 30 data.sampling.samples_per_epoch=16 trainer.max_epochs=2 trainer.check_val_every_n_epoch=1"
    (bin_ / "make").write_text(f'#!/bin/sh\n[ "$1" = demo ] && exec {bin_}/iac demo {small}\nexit 1\n')
    for path in bin_.iterdir():
        path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    text = "".join(block.text for block in blocks(Path("docs/tutorials/first-run.md")) if block.runs)
    subprocess.run(["bash", "-euo", "pipefail", "-c", text], env=environment, check=True, timeout=1500)
    assert set(json.loads(Path("runs/demo/results.json").read_text())) == {"vit_mae", "vit_scratch", "cnn"}
    assert Path("out/result.json").exists()
