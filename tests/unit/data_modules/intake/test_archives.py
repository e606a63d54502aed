"""Archives: what comes out, and what stays in."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from data_modules.intake.archives import Unpacking, is_archive, unpack


def tar_of(path: Path, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in (("../../escape", b"one"), ("/etc/absolute", b"two"), (".hidden", b"three")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_members_of_a_tar_have_names_of_ours(tmp_path: Path, mode: str) -> None:
    path = tar_of(tmp_path / "export", mode)  # without an extension
    assert is_archive(path)
    found = unpack(Unpacking(path, tmp_path / "to" / "deep", 1000))
    assert found.names == ("../../escape", "/etc/absolute")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        "export",
        "to/deep/0000000",
        "to/deep/0000001",
    ]
    assert (tmp_path / "to" / "deep" / "0000001").read_bytes() == b"two"


def test_a_bomb_ends_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small", b"x")
        archive.writestr("bomb", bytes(20 * 2**20))
    assert path.stat().st_size < 2**16
    found = unpack(Unpacking(path, tmp_path / "to", 5 * 2**20))
    assert found.too_large
    assert found.names == ("small",)
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["0000000"]


def test_damaged_archives_and_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"x" * 5000)
    path.write_bytes(path.read_bytes()[:-200])
    assert is_archive(path)
    assert "damaged" in unpack(Unpacking(path, tmp_path / "to", 10**6)).problem
    with zipfile.ZipFile(tmp_path / "letter.docx", "w") as archive:
        archive.writestr("[Content_Types].xml", b"<xml/>")
    assert not is_archive(tmp_path / "letter.docx")
    (tmp_path / "text").write_text("PK")
    assert not is_archive(tmp_path / "text")
    cut = tar_of(tmp_path / "b.tgz")
    cut.write_bytes(cut.read_bytes()[:-40])
    assert unpack(Unpacking(cut, tmp_path / "to", 10**6)).problem
