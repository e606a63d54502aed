"""Damaged checkpoints, runs and bundles."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from iac_lightning.runs.directory import load_run
from iac_lightning.workflows.bundle import FILES, MANIFEST, load_bundle, sha256
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.trained import load_trained
from tests.fuzz import templates
from tests.fuzz.judging import Maker, Trial, Wanted

Generator = np.random.Generator

RUN = "runs/bench"
SECRET = "s3cr3t-of-this-machine"


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@cache
def true_weights() -> dict[str, torch.Tensor]:
    return dict(load_trained(load_run(templates.original(RUN))).network.state_dict())


def other_weights(network: torch.nn.Module) -> str:
    expected, found = true_weights(), network.state_dict()
    if expected.keys() != found.keys():
        return "other tensors"
    return next((f"{k} differs" for k, v in expected.items() if not torch.equal(v, found[k])), "")


def spoiled(tensor: torch.Tensor, value: float) -> None:
    tensor[(0,) * tensor.dim()] = value


# --- checkpoints ------------------------------------------------------------------------------------------------


def checkpoint_trial(run: Path, wanted: Wanted = Wanted.HONESTY, mark: Path | None = None) -> Trial:
    """Loaded as `iac evaluate` does."""

    def differs(model: Any) -> str:
        if mark is not None and mark.exists():
            return "foreign code was run"
        return other_weights(model.network)

    return Trial(lambda: load_trained(load_run(run)), differs, wanted, warnings=lambda _: ())


def best(run: Path) -> Path:
    return run / "checkpoints" / "best.ckpt"


def resaved(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The run with a checkpoint that holds something else."""
    run = templates.copied(RUN, folder)
    found = torch.load(best(run), weights_only=True)
    torch.save(change(found) or found, best(run))
    return run


def undamaged_run(rng: Generator, folder: Path) -> Trial:
    return checkpoint_trial(templates.copied(RUN, folder), Wanted.VALUES)


def bit_flipped(rng: Generator, folder: Path) -> Trial:
    run = templates.copied(RUN, folder)
    content = bytearray(best(run).read_bytes())
    for _ in range(int(rng.choice([1, 1, 3, 100]))):
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    best(run).write_bytes(content)
    return checkpoint_trial(run)


def bit_of_a_weight_flipped(rng: Generator, folder: Path) -> Trial:
    """One of the exponent, which makes 3e36 of 0.009."""
    run = templates.copied(RUN, folder)
    content = bytearray(best(run).read_bytes())
    with zipfile.ZipFile(best(run)) as archive:
        tensors = [entry for entry in archive.infolist() if "/data/" in entry.filename and entry.file_size > 100]
    entry = tensors[rng.integers(len(tensors))]
    name, extra = (int.from_bytes(content[entry.header_offset + k :][:2], "little") for k in (26, 28))
    start = entry.header_offset + 30 + name + extra
    content[start + int(rng.integers(entry.file_size // 4)) * 4 + 3] ^= 1 << int(rng.choice([5, 6]))
    best(run).write_bytes(content)
    return checkpoint_trial(run)


def cut_off(rng: Generator, folder: Path) -> Trial:
    run = templates.copied(RUN, folder)
    size = best(run).stat().st_size
    os.truncate(best(run), int(rng.choice([0, 1, 100, size // 2, size - 1, size - 30, rng.integers(size)])))
    return checkpoint_trial(run, Wanted.REFUSAL)


def not_finite(rng: Generator, folder: Path) -> Trial:
    value, everywhere = float(rng.choice([np.nan, np.inf, -np.inf])), rng.random() < 0.5

    def spoil(found: dict[str, Any]) -> None:
        names = [k for k, v in found["state_dict"].items() if v.is_floating_point()]
        for name in names if everywhere else [names[rng.integers(len(names))]]:
            spoiled(found["state_dict"][name], value)

    return checkpoint_trial(resaved(folder, spoil), Wanted.REFUSAL)


def tensors_missing_or_other(rng: Generator, folder: Path) -> Trial:
    def spoil(found: dict[str, Any]) -> None:
        state = found["state_dict"]
        names = [k for k in state if k.startswith("model.")]
        name = names[rng.integers(len(names))]
        kind = rng.integers(5)
        if kind == 0:
            del state[name]
        elif kind == 1:
            state[name] = torch.zeros(3, 3)
        elif kind == 2:
            state["model.more"] = torch.zeros(3)
        elif kind == 3:
            state[name] = 5
        else:
            found["state_dict"] = {}

    return checkpoint_trial(resaved(folder, spoil), Wanted.REFUSAL)


def parts_missing(rng: Generator, folder: Path) -> Trial:
    def spoil(found: dict[str, Any]) -> Any:
        kind = rng.integers(5)
        if kind == 0:
            del found["iac"]
        elif kind == 1:
            found["iac"] = [1]
        elif kind == 2:
            del found["state_dict"]
        elif kind == 3:
            return [1, 2, 3]
        else:
            found["iac"]["trained_on"] = 7
        return None

    return checkpoint_trial(resaved(folder, spoil))


def foreign_file(rng: Generator, folder: Path) -> Trial:
    run, mark = templates.copied(RUN, folder), folder / "executed"
    path, kind = best(run), rng.integers(7)
    if kind == 0:
        path.write_bytes(pickle.dumps(Touch(mark)))
    elif kind == 1:
        torch.save({"state_dict": Touch(mark)}, path)
    elif kind == 2:
        path.write_bytes(rng.bytes(5000))
    elif kind == 3:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "hello")
    elif kind == 4:
        path.unlink()
        path.mkdir()
    elif kind == 5:
        torch.save(torch.zeros(3), path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": {}}))
    return checkpoint_trial(run, Wanted.REFUSAL, mark)


def settings_of_the_run_damaged(rng: Generator, folder: Path) -> Trial:
    run = templates.copied(RUN, folder)
    path = run / "config.yaml"
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        content = content[: rng.integers(len(content))]
    else:
        content[rng.integers(len(content))] = rng.integers(256)
    path.write_bytes(content)
    return checkpoint_trial(run)


BAD_CALIBRATIONS: tuple[tuple[str, Any], ...] = (
    ("temperature", 0),
    ("temperature", -1),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("temperature", "1.3"),
    ("temperature", None),
    ("temperature", 1e300),
    ("bias", float("nan")),
    ("bias", 1e9),
    ("bias", []),
    ("plain_threshold", 2),
    ("plain_threshold", -0.1),
    ("plain_threshold", float("nan")),
    ("plain_threshold", True),
    ("plain_threshold", "half"),
    ("plain_thickness", None),
    ("plain_thickness", []),
    ("plain_thickness", {"used": True}),
    ("operating_point", None),
    ("operating_point", []),
    ("operating_point.threshold", 1.5),
    ("operating_point.thickness", {}),
    ("operating_point.rule", "bright"),
    ("operating_point.aim", 7),
    ("operating_point.least_lesion_mm3", float("nan")),
    ("operating_point.least_lesion_mm3", -1),
)


def bad_calibration(rng: Generator) -> dict[str, Any]:
    known = json.loads((templates.original(RUN) / "calibration.json").read_text())
    key, value = BAD_CALIBRATIONS[rng.integers(len(BAD_CALIBRATIONS))]
    section, _, name = key.rpartition(".")
    return dict(known | ({section: known[section] | {name: value}} if section else {key: value}))


def calibration_damaged(rng: Generator, folder: Path) -> Trial:
    run = templates.copied(RUN, folder)
    path = run / "calibration.json"
    texts = ["", "{", "[]", "null", "{}", "7"]
    path.write_text(json.dumps(bad_calibration(rng)) if rng.random() < 0.7 else texts[rng.integers(len(texts))])
    return Trial(
        lambda: load_calibrated(load_run(run)).calibration.point.thresholds.at(4.0),
        lambda value: "taken",
        Wanted.REFUSAL,
        warnings=lambda _: (),
    )


CHECKPOINTS: tuple[Maker, ...] = (
    undamaged_run,
    bit_flipped,
    bit_of_a_weight_flipped,
    cut_off,
    not_finite,
    tensors_missing_or_other,
    parts_missing,
    foreign_file,
    settings_of_the_run_damaged,
    calibration_damaged,
)


# --- bundles ----------------------------------------------------------------------------------------------------


def bundle_trial(bundle: Path, wanted: Wanted = Wanted.HONESTY, mark: Path | None = None) -> Trial:
    """Loaded as `iac predict --bundle` does, with a secret in the environment."""

    def read() -> Any:
        os.environ["FUZZ_SECRET"] = SECRET
        model = load_bundle(bundle)
        known = model.calibration
        point = known.point.thresholds.at(4.0), known.point.least_lesion_mm3
        return model, (known.scaling.temperature, known.scaling.bias, known.plain.at(4.0), *point)

    def differs(both: Any) -> str:
        model, found = both
        if mark is not None and mark.exists():
            return "foreign code was run"
        if SECRET in repr(model.config) + repr(model.calibration) + repr(model.trained_on):
            return "a variable of the environment stands in it"
        if found != (1.3, 0.2, 0.3, 0.4, 2.0):
            return f"another calibration: {found}"
        data = model.config.data
        if (data.window_hu, data.grid.spacing_mm) != ((-200.0, 1000.0), (1.0, 1.0, 2.0)):
            return "other settings"
        return other_weights(model.network)

    return Trial(read, differs, wanted, warnings=lambda _: ())


def sealed(bundle: Path) -> Path:
    """The manifest as its maker would have written it, so that it vouches for whatever is there."""
    path = bundle / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["sha256"] = {name: sha256(bundle / name) for name in FILES}
    path.write_text(json.dumps(manifest))
    return bundle


def rewritten(bundle: Path, name: str, change: Callable[[Any], Any]) -> Path:
    path = bundle / name
    data = json.loads(path.read_text())
    path.write_text(json.dumps(change(data) or data))
    return sealed(bundle)


def undamaged_bundle(rng: Generator, folder: Path) -> Trial:
    return bundle_trial(sealed(templates.copied("bundle", folder)), Wanted.VALUES)


def file_damaged(rng: Generator, folder: Path) -> Trial:
    bundle = templates.copied("bundle", folder)
    path = bundle / str(rng.choice([*FILES, MANIFEST]))
    kind, content = rng.integers(4), bytearray(path.read_bytes())
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(content[: rng.integers(len(content))])
    elif kind == 2:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
    else:
        path.unlink()
        path.mkdir()
    return bundle_trial(bundle)


def file_is_a_link(rng: Generator, folder: Path) -> Trial:
    bundle = templates.copied("bundle", folder)
    path = bundle / str(rng.choice([*FILES, MANIFEST]))
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere" if rng.random() < 0.8 else path)
    return bundle_trial(bundle, Wanted.REFUSAL)


def odd_manifest(rng: Generator, folder: Path) -> Trial:
    bundle = templates.copied("bundle", folder)
    values: list[tuple[str, Any]] = [
        ("format_version", 99),
        ("format_version", "1"),
        ("format_version", None),
        ("format_version", -1),
        ("format", "other"),
        ("sha256", {}),
        ("sha256", [1]),
        ("sha256", dict.fromkeys(FILES, 5)),
        ("sha256", {f"../{name}": "x" for name in FILES}),
    ]
    path = bundle / MANIFEST
    manifest = json.loads(path.read_text())
    key, value = values[rng.integers(len(values))]
    path.write_text(json.dumps(manifest | {key: value}))
    return bundle_trial(bundle, Wanted.REFUSAL)


def calibration_out_of_range(rng: Generator, folder: Path) -> Trial:
    bad = bad_calibration(rng)
    found = bundle_trial(rewritten(templates.copied("bundle", folder), "calibration.json", lambda _: bad))
    return Trial(found.read, found.differs, Wanted.REFUSAL, warnings=lambda _: ())


def weights_not_finite(rng: Generator, folder: Path) -> Trial:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        names = [k for k, v in state.items() if v.is_floating_point()]
        spoiled(state[names[rng.integers(len(names))]], float(rng.choice([np.nan, np.inf])))

    return other_tensors(folder, spoil)


def other_tensors(
    folder: Path, spoil: Callable[[dict[str, torch.Tensor]], None], wanted: Wanted = Wanted.REFUSAL
) -> Trial:
    bundle = templates.copied("bundle", folder)
    state = load_file(bundle / "weights.safetensors")
    spoil(state)
    save_file(state, bundle / "weights.safetensors")
    return bundle_trial(sealed(bundle), wanted)


def weights_of_another_form(rng: Generator, folder: Path) -> Trial:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        names = list(state)
        name, kind = names[rng.integers(len(names))], rng.integers(4)
        if kind == 0:
            del state[name]
        elif kind == 1:
            state[name] = torch.zeros(2, 2)
        elif kind == 2:
            state["more"] = torch.zeros(2)
        else:
            state[name] = torch.zeros(state[name].shape, dtype=torch.int64)

    return other_tensors(folder, spoil, Wanted.HONESTY)


def weights_of_another_program(rng: Generator, folder: Path) -> Trial:
    bundle, mark = templates.copied("bundle", folder), folder / "executed"
    path, kind = bundle / "weights.safetensors", rng.integers(4)
    if kind == 0:
        path.write_bytes(pickle.dumps(Touch(mark)))
    elif kind == 1:
        path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    elif kind == 2:
        path.write_bytes(b"")
    else:
        torch.save(Touch(mark), path)
    return bundle_trial(sealed(bundle), Wanted.REFUSAL, mark)


INTERPOLATIONS = ("${oc.env:FUZZ_SECRET}", "x-${oc.env:FUZZ_SECRET,none}", "${oc.decode:1}", "${task}", "${nowhere}")


def interpolated(rng: Generator, folder: Path) -> Trial:
    text = str(rng.choice(INTERPOLATIONS))

    def spoil(data: dict[str, Any]) -> None:
        kind, grid = rng.integers(4), data["settings"]["data"]["grid"]
        if kind == 0:
            data["name"] = text
        elif kind == 1:
            grid["profile"] = text
        elif kind == 2:
            grid["template"] = text
        else:
            data["settings"]["model"]["name"] = text

    return bundle_trial(rewritten(templates.copied("bundle", folder), "model.json", spoil))


def settings_out_of_range(rng: Generator, folder: Path) -> Trial:
    def spoil(data: dict[str, Any]) -> None:
        s = data["settings"]
        changes: list[tuple[dict[str, Any], str, Any]] = [
            (s["data"], "window_hu", [1000, -200]),
            (s["data"], "window_hu", [0, float("inf")]),
            (s["data"]["grid"], "spacing_mm", [0, 1, 1]),
            (s["data"]["grid"], "spacing_mm", [1e-9, 1, 1]),
            (s["data"]["grid"], "roi_mm", [1e9, 1e9, 1e9]),
            (s["data"]["grid"], "roi_mm", "big"),
            (s["data"]["sampling"], "crop", [0, 0, 0]),
            (s["data"]["sampling"], "crop", [100000, 100000, 100000]),
            (s["inference"], "overlap", 2),
            (s["inference"], "window_batch", 0),
            (s["loss"], "restrict_hu", "x"),
            (s["loss"], "restrict_hu", float("nan")),
            (s["model"]["vit"], "dim", 10**9),
            (s["model"]["vit"], "depth", 10**9),
            (s["model"]["vit"], "dim", -6),
            (s, "task", "pretrain"),
            (s, "runs_dir", "/"),
            (s["model"], "name", "resnet"),
        ]
        part, key, value = changes[rng.integers(len(changes))]
        part[key] = value

    return bundle_trial(rewritten(templates.copied("bundle", folder), "model.json", spoil), Wanted.REFUSAL)


def json_of_another_form(rng: Generator, folder: Path) -> Trial:
    bundle = templates.copied("bundle", folder)
    texts = ["", "{", "[]", "null", "{}", "7", '"x"', "[" * 100000, '{"a": 1}', "\ufeff{}"]
    name = str(rng.choice(["model.json", "calibration.json", "trained_on.json"]))
    (bundle / name).write_text(texts[rng.integers(len(texts))])
    wanted = Wanted.HONESTY if name == "trained_on.json" else Wanted.REFUSAL
    return bundle_trial(sealed(bundle), wanted)


def more_than_there_should_be(rng: Generator, folder: Path) -> Trial:
    bundle = templates.copied("bundle", folder)
    (bundle / "pickle.pkl").write_bytes(b"x")
    (bundle / "link").symlink_to("/")
    return bundle_trial(bundle)


BUNDLES: tuple[Maker, ...] = (
    undamaged_bundle,
    file_damaged,
    file_is_a_link,
    odd_manifest,
    calibration_out_of_range,
    weights_not_finite,
    weights_of_another_form,
    weights_of_another_program,
    interpolated,
    settings_out_of_range,
    json_of_another_form,
    more_than_there_should_be,
)
