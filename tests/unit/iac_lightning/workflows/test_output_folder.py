"""What others have in the output folder stays; what is written appears whole, or is gone after the next call."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_modules.errors import UserError
from iac_lightning.workflows import output_folder as module
from iac_lightning.workflows.output_folder import output_folder, publish

NAMES = ("mask.nii.gz", "overlay.png", "result.json")
SOURCE = Path("scan.nii.gz")


def write(out: Path, text: str = "new", names: tuple[str, ...] = NAMES, source: Path = SOURCE) -> dict[str, Any]:
    with output_folder(out, names, ("scan.nii.gz",), source) as staging:
        for name in names[:-1]:
            (staging / name).write_text(f"{name} {text}")
        return publish(staging, {"volume_mm3": 1.5, "text": text})


def contents(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(out.iterdir())}


def test_a_folder_may_be_written_again_as_long_as_nobody_changes_it(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    write(out, "old")
    (out / "notes.txt").write_text("mine")
    result = write(out)
    assert sorted(contents(out)) == ["mask.nii.gz", "notes.txt", "overlay.png", "result.json"]
    assert json.loads((out / "result.json").read_text()) == result
    assert sorted(result["files"]) == sorted(NAMES)
    assert (out / "mask.nii.gz").read_text() == "mask.nii.gz new"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["changed", "alone", "link", "folder"])
def test_files_of_others_are_refused_and_nothing_is_touched(tmp_path: Path, name: str, how: str) -> None:
    out = tmp_path / "out"
    if how == "alone":
        out.mkdir()
        (out / name).write_text("{}")
    else:
        write(out)
        if how == "changed":
            (out / name).write_text((out / name).read_text().replace("new", "mine"))
        else:
            (out / name).rename(tmp_path / "elsewhere")
            if how == "link":
                (out / name).symlink_to(tmp_path / "elsewhere")
            else:
                (out / name).mkdir()
    listed = sorted(p.name for p in out.iterdir())
    with pytest.raises(UserError, match=rf"holds .*{name}"):
        write(out)
    assert sorted(p.name for p in out.iterdir()) == listed
    if how == "changed":
        assert "mine" in (out / name).read_text()


@pytest.mark.parametrize("how", ["folder", "file", "link"])
def test_the_folder_in_which_outputs_are_made_may_be_somebodys_own(tmp_path: Path, how: str) -> None:
    out, own = tmp_path / "out", tmp_path / "out" / ".iac_predict"
    write(out)
    kept = own if how == "file" else (tmp_path / "mine" if how == "link" else own) / "notes.txt"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    if how == "link":
        own.symlink_to(kept.parent)
    with pytest.raises(UserError, match=r"out: holds \.iac_predict, which .* did not write"):
        write(out, "newer")
    assert kept.read_text() == "mine"
    assert "new" in (out / "mask.nii.gz").read_text()


def test_what_fails_leaves_nothing_and_no_folder(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        with output_folder(out, NAMES, (), SOURCE) as staging:
            (staging / "mask.nii.gz").write_text("half")
            raise UserError("damaged")

    with pytest.raises(UserError, match="damaged"):
        fail(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    write(tmp_path / "out")
    with pytest.raises(UserError, match="damaged"):
        fail(tmp_path / "out")
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize("interrupted", [True, False])
def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool) -> None:
    """Each call of the file system is the last one, once; the next call of the command finishes as ever."""
    write(tmp_path / "ever")
    expected = contents(tmp_path / "ever")
    real = {name: getattr(os, name) for name in ("replace", "unlink")}
    for last in range(12):
        out = tmp_path / f"{interrupted}{last}"
        write(out, "old")
        old = contents(out)
        pid = os.fork()
        if pid == 0:
            calls = []

            def step(name: str, *args: Any, calls: list[str] = calls, last: int = last, **kwargs: Any) -> Any:
                calls.append(name)
                if len(calls) > last:
                    if not interrupted:
                        os._exit(9)
                    raise KeyboardInterrupt
                return real[name](*args, **kwargs)

            for name in real:
                monkeypatch.setattr(os, name, lambda *a, _name=name, **k: step(_name, *a, **k))
            try:
                write(out)
            except BaseException:
                os._exit(1)
            os._exit(0)
        os.waitpid(pid, 0)
        after = contents_outside_staging(out)
        if "result.json" in after:  # whole: the old or the new
            assert after in (old, expected)
        else:
            assert len(after) < len(NAMES)
        write(out)
        assert contents(out) == expected


def contents_outside_staging(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(out.iterdir()) if path.is_file()}


def test_the_scan_itself_is_never_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, names=("mask.nii.gz", "scan.nii.gz", "result.json"))
    write(out, source=out / "scan.nii.gz")  # what was written for the eye is now looked at
    assert (out / "scan.nii.gz").read_text() == "scan.nii.gz new"
    with pytest.raises(UserError, match=r"holds mask\.nii\.gz"):
        write(out, source=out / "mask.nii.gz")
    other = tmp_path / "other"
    write(other, names=("mask.nii.gz", "scan.nii.gz", "result.json"))
    write(other)
    assert not (other / "scan.nii.gz").exists()  # that of another scan


def test_a_folder_that_cannot_be_written_or_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out", Path("/proc/nothing/out")):
        with pytest.raises(UserError, match="cannot be written to"):
            write(out)
    (tmp_path / "used").mkdir()
    handle = os.open(tmp_path / "used", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another `iac predict` writes there"):
        write(tmp_path / "used")
    os.close(handle)
    write(tmp_path / "used")


def test_a_result_that_is_no_result_vouches_for_nothing(tmp_path: Path) -> None:
    for content in ("", "[1]", '{"files": 1}', '{"files": {"mask.nii.gz": "x"}}', "[" * 100_000):
        (tmp_path / "result.json").write_text(content)
        with pytest.raises(UserError, match=r"holds result\.json"):
            write(tmp_path)
        assert module._written(tmp_path) == set()
