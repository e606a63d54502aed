"""Damaged YAML: experiments and sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from iac_lightning.config.keys import value_at
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.sweeps.cells import cells
from iac_lightning.sweeps.spec import read_sweep
from tests.fuzz.judging import Maker, Trial, Wanted

Generator = np.random.Generator

EXPERIMENT = """\
name: fuzz/one
seed: 3
task: segment
data:
  cohort: data/cohort.csv
  window_hu: [-200, 1000]
  grid: {spacing_mm: [1.0, 1.0, 2.0], roi_mm: [80, 64, 48]}
  sampling: {crop: [32, 32, 16], samples_per_epoch: 40, lesion_fraction: 0.67}
  batch_size: 4
  num_workers: 0
model:
  name: vit
  vit: {preset: tiny, patch_size: [8, 8, 8]}
optimizer: {lr: 3.0e-3, layer_decay: 0.65}
trainer: {max_epochs: 8, check_val_every_n_epoch: 4}
tracking: {enabled: false}
"""


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    try:
        return bool(np.isclose(float(a), float(b), rtol=1e-9))
    except (TypeError, ValueError):
        return str(a) == str(b)


def differs_from_file(config: ExperimentConfig, text: str) -> str:
    """Whether each setting of a file is what YAML's own reader finds there."""
    try:
        said = flat(yaml.safe_load(text) or {})
    except (yaml.YAMLError, RecursionError, AttributeError):
        return ""  # two readers may differ about what is YAML; values that are odd are caught as settings
    for key, value in said.items():
        if value is None or key == "extends":
            continue
        try:
            found = value_at(config, key)
        except AttributeError:
            return f"{key} is no setting and was taken"
        if not same(found, value) and not hasattr(found, "SHORTHAND"):
            return f"{key} is {found!r} instead of {value!r}"
    return ""


def trial(folder: Path, text: str | bytes, wanted: Wanted = Wanted.HONESTY, *overrides: str) -> Trial:
    path = folder / "one.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def differs(config: ExperimentConfig) -> str:
        return differs_from_file(config, path.read_text(encoding="utf-8-sig"))

    return Trial(lambda: load_experiment(path, overrides), differs, wanted, warnings=lambda _: ())


def with_value(key: str, value: str) -> str:
    """The experiment with another value, as text, for a key that it has."""
    head, found, rest = EXPERIMENT.partition(f"{key}: ")
    assert found
    end = next(k for k, letter in enumerate(rest) if letter in ",}\n" and rest[:k].count("[") == rest[:k].count("]"))
    return head + found + value + rest[end:]


KEYS = (
    "seed",
    "window_hu",
    "spacing_mm",
    "roi_mm",
    "crop",
    "samples_per_epoch",
    "lesion_fraction",
    "batch_size",
    "num_workers",
    "patch_size",
    "lr",
    "layer_decay",
    "max_epochs",
    "check_val_every_n_epoch",
)
NO_VALUES = (
    "nan",
    ".nan",
    ".inf",
    "-.inf",
    "1e400",
    "-1",
    "-1.5",
    "''",
    "{}",
    "{a: 1}",
    "[[1]]",
    "yes please",
    "[1, 2, 3, 4]",
)


def a_value_that_is_none(rng: Generator, folder: Path) -> Trial:
    key, value = str(rng.choice(KEYS)), str(rng.choice(NO_VALUES))
    wanted = Wanted.HONESTY if (key, value) == ("seed", "-1") else Wanted.REFUSAL
    return trial(folder, with_value(key, value), wanted)


def a_value_out_of_range(rng: Generator, folder: Path) -> Trial:
    cases = [
        ("window_hu", "[1000, -200]"),
        ("spacing_mm", "[0, 1, 2]"),
        ("roi_mm", "[80, -64, 48]"),
        ("crop", "[0, 32, 16]"),
        ("lesion_fraction", "1.5"),
        ("batch_size", "0"),
        ("patch_size", "[7, 8, 8]"),
        ("lr", "0"),
        ("layer_decay", "2"),
        ("max_epochs", "0"),
    ]
    return trial(folder, with_value(*cases[rng.integers(len(cases))]), Wanted.REFUSAL)


def beyond_any_machine(rng: Generator, folder: Path) -> Trial:
    """Nothing may be allocated while settings are read."""
    cases = [("batch_size", "1000000000000"), ("crop", "[80000, 80000, 80000]"), ("max_epochs", "9" * 30)]
    return trial(folder, with_value(*cases[rng.integers(len(cases))]))


def an_unknown_key(rng: Generator, folder: Path) -> Trial:
    key = str(rng.choice(KEYS))
    name = key[:-1] + str(rng.choice(["x", "", "S"])) if rng.random() < 0.7 else "no_such_thing"
    return trial(folder, EXPERIMENT.replace(f"{key}:", f"{name}:", 1), Wanted.REFUSAL)


def a_key_twice(rng: Generator, folder: Path) -> Trial:
    return trial(folder, EXPERIMENT + str(rng.choice(["seed: 4\n", "trainer: {max_epochs: 9}\n", "name: x\n"])))


def interpolated(rng: Generator, folder: Path) -> Trial:
    """Interpolation of one's own settings is allowed; what cannot be resolved is named."""
    value = rng.choice(["${nowhere}", "${name", "${oc.env:NO_SUCH_VARIABLE_HERE}", "${name}", "${.}", "${x:y}"])
    found = trial(folder, with_value(str(rng.choice(["cohort", "name", "seed"])), f"'{value}'"))
    return Trial(
        found.read, lambda c: "" if "${" not in c.data.cohort + c.name else "kept as it is", warnings=lambda _: ()
    )


def python_objects(rng: Generator, folder: Path) -> Trial:
    mark = folder / "executed"
    value = rng.choice(
        [
            f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]",
            "!!python/name:os.system",
            "!!binary aGVsbG8=",
            "!!set {a, b}",
            "!!timestamp 2001-01-01",
            "!custom x",
        ]
    )
    found = trial(folder, with_value(str(rng.choice(["cohort", "seed"])), str(value)))
    return Trial(found.read, lambda _: "executed" if mark.exists() else "", warnings=lambda _: ())


def bombs(rng: Generator, folder: Path) -> Trial:
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    texts = [
        laughs,
        EXPERIMENT + "junk: " + "[" * 5000,
        EXPERIMENT + "junk: " + "{a: " * 3000,
        "name: &a [*a]\n",
        EXPERIMENT + "junk: " + "9" * 5000 + "\n",
        with_value("seed", "1" * 5000),
        "? " * 2000,
    ]
    return trial(folder, texts[rng.integers(len(texts))], Wanted.REFUSAL)


def no_yaml(rng: Generator, folder: Path) -> Trial:
    texts = [
        b"",
        b"- a\n- b\n",
        b"seed",
        b"\x00\x01",
        b"name: [",
        b"name: 'x\n",
        b"\tname: x\n",
        b"name: x: y\n",
        b"---\n",
    ]
    texts += [EXPERIMENT.encode("utf-16"), b"\xff\xfe" + EXPERIMENT.encode(), b"a: 1\n---\nb: 2\n", rng.bytes(500)]
    return trial(folder, texts[rng.integers(len(texts))], Wanted.REFUSAL)


def with_byte_order_mark(rng: Generator, folder: Path) -> Trial:
    text = EXPERIMENT if rng.random() < 0.5 else EXPERIMENT.replace("\n", "\r\n")
    return trial(folder, text.encode("utf-8-sig"), Wanted.VALUES)


def byte_changed(rng: Generator, folder: Path) -> Trial:
    content = bytearray(EXPERIMENT.encode())
    content[rng.integers(len(content))] = rng.integers(256) if rng.random() < 0.4 else rng.integers(32, 127)
    return trial(folder, bytes(content))


def cut_off(rng: Generator, folder: Path) -> Trial:
    return trial(folder, EXPERIMENT[: rng.integers(len(EXPERIMENT))])


def line_lost_or_moved(rng: Generator, folder: Path) -> Trial:
    lines = EXPERIMENT.splitlines()
    line = lines.pop(int(rng.integers(len(lines))))
    if rng.random() < 0.5:
        lines.insert(int(rng.integers(len(lines))), line)
    return trial(folder, "\n".join(lines) + "\n")


def extends_something(rng: Generator, folder: Path) -> Trial:
    value = rng.choice(
        ["one.yaml", "nowhere.yaml", "[one.yaml, one.yaml]", "5", "[[x]]", ".", "/etc/hostname", "{a: b}"]
    )
    return trial(folder, f"extends: {value}\n{EXPERIMENT}", Wanted.REFUSAL)


def odd_overrides(rng: Generator, folder: Path) -> Trial:
    words = [
        "seed",
        "=1",
        "seed=",
        "seed==1",
        "seed=1=2",
        "seed.x=1",
        "model=[",
        "data.cohort.x=1",
        "a.b.c=1",
        "seed=[1",
    ]
    words += [
        "__class__=1",
        "data.__init__=1",
        "model.vit.dim=1e30",
        "trainer=5",
        "seed=!!python/name:os.system",
        "😀=1",
    ]
    found = trial(folder, EXPERIMENT, Wanted.REFUSAL, words[rng.integers(len(words))])
    return found


def odd_names(rng: Generator, folder: Path) -> Trial:
    names = [
        "../../etc",
        "/abs",
        "a" * 300,
        "''",
        "' '",
        "'a\\0b'",
        "'.'",
        "'..'",
        "a//b",
        "'a/../../b'",
        '"a\\nb"',
        '"\\e[31m"',
    ]
    return trial(folder, with_value("name", names[rng.integers(len(names))]), Wanted.REFUSAL)


EXPERIMENTS: tuple[Maker, ...] = (
    a_value_that_is_none,
    a_value_out_of_range,
    beyond_any_machine,
    an_unknown_key,
    a_key_twice,
    interpolated,
    python_objects,
    bombs,
    no_yaml,
    with_byte_order_mark,
    byte_changed,
    cut_off,
    line_lost_or_moved,
    extends_something,
    odd_overrides,
    odd_names,
)


# --- sweeps -----------------------------------------------------------------------------------------------------

SWEEP = """\
name: fuzz_sweep
question: Which patch size?
base: one.yaml
pretrain: null
seeds: [0, 1]
split: dev
axes:
  patch:
    "8": {model.vit.patch_size: [8, 8, 8]}
    "16": {model.vit.patch_size: [16, 16, 8]}
  crop:
    small: {data.sampling.crop: [32, 32, 16]}
    large: {data.sampling.crop: [48, 48, 32]}
"""


def sweep_trial(folder: Path, text: str | bytes, wanted: Wanted = Wanted.HONESTY, n_cells: int | None = None) -> Trial:
    """Read as `iac sweep --dry-run` does; the number of cells is the truth where it is known."""
    (folder / "one.yaml").write_text(EXPERIMENT)
    path = folder / "sweep.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def differs(found: list[Any]) -> str:
        return "" if n_cells in (None, len(found)) else f"{len(found)} cells instead of {n_cells}"

    return Trial(lambda: cells(read_sweep(path)), differs, wanted, warnings=lambda _: ())


def sweep_as_it_is(rng: Generator, folder: Path) -> Trial:
    return sweep_trial(folder, SWEEP, Wanted.VALUES, 8)


def sweep_with_odd_values(rng: Generator, folder: Path) -> Trial:
    changes = [
        ("[0, 1]", "[0, 0]"),
        ("[0, 1]", "0"),
        ("[0, 1]", "[a]"),
        ("[0, 1]", "[0.5]"),
        ("[0, 1]", "[]"),
        ("[0, 1]", "[true]"),
        ("split: dev", "split: train"),
        ("base: one.yaml", "base: nowhere.yaml"),
        ("base: one.yaml", "base: [one.yaml]"),
        ("base: one.yaml\n", ""),
        ("[8, 8, 8]", "[7, 8, 8]"),
        ("model.vit.patch_size", "model.vit.patchsize"),
        ("axes:", "axis:"),
        ('"16": {model.vit.patch_size: [16, 16, 8]}', '"8": {model.vit.patch_size: [16, 16, 8]}'),
        ("small: {data.sampling.crop: [32, 32, 16]}", "small: 5"),
        ("pretrain: null", "pretrain: one.yaml"),
        ("name: fuzz_sweep", "name: ../x"),
        ("split: dev", "split: dev\nexclude: [{patch: nowhere}]"),
        ("split: dev", "split: dev\npoints: [{patch: '8'}]"),
        ("split: dev", "split: dev\npoints: 7"),
        ("split: dev", "split: dev\nextends: sweep.yaml"),
        ("split: dev", "split: dev\nreport: {baseline: {patch: nowhere}}"),
        ("split: dev", "split: dev\nphantom: {patients: -1}"),
    ]
    before, after = changes[rng.integers(len(changes))]
    assert before in SWEEP
    return sweep_trial(folder, SWEEP.replace(before, after, 1), Wanted.REFUSAL)


def sweep_of_too_many_cells(rng: Generator, folder: Path) -> Trial:
    axes = "".join(
        f"  a{k}:\n" + "".join(f"    l{i}: {{optimizer.lr: {1e-4 * (i + 1)}}}\n" for i in range(12)) for k in range(9)
    )
    return sweep_trial(folder, SWEEP.partition("axes:")[0] + "axes:\n" + axes, Wanted.REFUSAL)


def byte_changed_in_sweep(rng: Generator, folder: Path) -> Trial:
    content = bytearray(SWEEP.encode())
    content[rng.integers(len(content))] = rng.integers(256) if rng.random() < 0.4 else rng.integers(32, 127)
    return sweep_trial(folder, bytes(content))


def sweep_cut_off(rng: Generator, folder: Path) -> Trial:
    return sweep_trial(folder, SWEEP[: rng.integers(len(SWEEP))])


SWEEPS: tuple[Maker, ...] = (
    sweep_as_it_is,
    sweep_with_odd_values,
    sweep_with_odd_values,
    sweep_of_too_many_cells,
    byte_changed_in_sweep,
    sweep_cut_off,
)
