"""Code blocks of the documentation: the files that they show, and the commands that a reader would type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
PAGES = sorted(
    path.relative_to(REPOSITORY)
    for path in (*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"))
    if "site" not in path.parts
)

_FENCE = re.compile(r"^( *)(```+)(.*)$")
RUN = "<!-- run -->"
"""Above a block: a test runs its commands."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: relative to the repository.
        line: of its fence.
        language: such as bash.
        title: file that it shows, empty where none is named.
        text: between the fences.
        runs: whether a test runs it.
    """

    page: Path
    line: int
    language: str
    title: str
    text: str
    runs: bool


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = (REPOSITORY / page).read_text(encoding="utf-8").splitlines()
    k = 0
    while k < len(lines):
        fence = _FENCE.match(lines[k])
        if not fence:
            k += 1
            continue
        end = next(i for i in range(k + 1, len(lines)) if lines[i].strip() == fence[2])
        before = next((line.strip() for line in reversed(lines[:k]) if line.strip()), "")
        words = fence[3].split(maxsplit=1)
        title = re.search(r'title="([^"]+)"', fence[3])
        yield Block(
            page,
            k + 1,
            words[0] if words else "",
            title[1] if title else "",
            "\n".join(line.removeprefix(fence[1]) for line in lines[k + 1 : end]) + "\n",
            before == RUN,
        )
        k = end + 1


def commands(block: Block) -> list[list[str]]:
    """The commands of a block of shell, as words: comments, line ends and leading assignments taken away."""
    if block.language not in ("bash", "sh"):
        return []
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0]):
            words.pop(0)
        if words:
            found.append(words)
    return found


def iac_words(words: list[str]) -> list[str] | None:
    """What a command gives to `iac`, also under torchrun; None for other commands."""
    if words[0] in ("iac", ".venv/bin/iac"):
        return words[1:]
    if "iac_lightning.cli" in words:
        return words[words.index("iac_lightning.cli") + 1 :]
    return None


def inline_code(page: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each piece of code within the prose."""
    fenced = ""
    for number, line in enumerate((REPOSITORY / page).read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence and not fenced:
            fenced = fence[2]
        elif fenced:
            fenced = "" if line.strip() == fenced else fenced
        else:
            yield from ((number, text) for text in re.findall(r"`([^`]+)`", line))


def write_files(pages: list[Path], folder: Path) -> None:
    """Write every file that the pages show under a title."""
    for page in pages:
        for block in blocks(page):
            if block.title:
                path = folder / block.title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
