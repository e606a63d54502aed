"""Files whole or absent, whatever happens on the way."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest

from data_modules import files
from data_modules.files import (
    DiskFull,
    remove_leftovers,
    replacing,
    replacing_folder,
    shown_path,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "deep/a.json"
    write_json_atomic(path, {"σ": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json_atomic(path, {"a": math.nan})
    assert json.loads(path.read_text(encoding="utf-8")) == {"σ": 1}

    def crash(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomic(path, "new")
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    assert "σ" in path.read_text(encoding="utf-8")


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    for name in (".last.ckpt.12.tmp", "last.ckpt", "notes.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "notes.tmp"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_for_a_file_leaves_the_one_before(number, tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": 1})

    def full() -> None:
        with replacing(path) as file:
            file.write_text("half")
            raise OSError(number, "no room")

    with pytest.raises(DiskFull, match=r"a\.json: .*MB are free.*run the same command again"):
        full()
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(PermissionError), replacing(path):
        raise PermissionError(errno.EACCES, "not that")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "bundle"
    for text in ("first", "second"):
        with replacing_folder(path) as folder:
            (folder / "a").write_text(text)
        assert (path / "a").read_text() == text

    def full() -> None:
        with replacing_folder(path) as folder:
            (folder / "a").write_text("third")
            raise OSError(errno.ENOSPC, "no room")

    with pytest.raises(DiskFull, match="bundle: the disk has no room"):
        full()
    assert (path / "a").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_of_two_that_write_at_once_the_first_wins(tmp_path: Path) -> None:
    path = tmp_path / "salt"

    def write(text: str) -> None:
        with replacing(path, keeps_present=True) as temporary:
            temporary.write_text(text)

    with replacing(path, keeps_present=True) as temporary:
        temporary.write_text("slow")
        write("fast")
    assert path.read_text() == "fast"
    assert [p.name for p in tmp_path.iterdir()] == ["salt"]


def test_the_first_wins_without_hard_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError("no hard links")

    monkeypatch.setattr(files.os, "link", fail)
    for text in ("first", "second"):
        with replacing(tmp_path / "salt", keeps_present=True) as temporary:
            temporary.write_text(text)
    assert (tmp_path / "salt").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["salt"]


def test_a_link_is_moved_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "scan").write_text("voxels")
    (tmp_path / "image").write_text("old")
    with replacing(tmp_path / "image") as temporary:
        temporary.symlink_to(tmp_path / "scan")
    assert (tmp_path / "image").is_symlink()
    assert (tmp_path / "image").read_text() == "voxels"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image", "scan"]


def test_content_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    flush, move = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        steps.append("folder" if target.is_dir() else f"file of {target.stat().st_size} bytes")
        flush(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", lambda *paths: (steps.append("move"), move(*paths)))
    write_bytes_atomic(tmp_path / "a", b"abc")
    assert steps == ["file of 3 bytes", "move", "folder"]


def test_what_a_killed_process_leaves_is_found(tmp_path: Path) -> None:
    for place in (replacing, replacing_folder):
        with place(tmp_path / "a") as temporary:
            left = temporary.name
            if place is replacing:
                temporary.touch()
        (tmp_path / left).mkdir() if place is replacing_folder else (tmp_path / left).touch()
        (tmp_path / "a").unlink() if place is replacing else (tmp_path / "a").rmdir()
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_path_for_readers_tells_nothing_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (Path("runs/a"), tmp_path / "here/runs/a", Path("x/../runs/a"), Path("../here/runs/a")):
        assert shown_path(path) == str(Path("runs/a"))
    for path in (tmp_path / "b.yaml", Path("../b.yaml"), Path("../heretic/b.yaml")):
        assert shown_path(path) == "…/b.yaml"
        assert shown_path(path, whole=True) == str(path)
    assert shown_path(Path("..a/b"), whole=True) == str(Path("..a/b"))
