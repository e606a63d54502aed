"""The figures of a page as files: PNG that carry what they show, their sample and the command that makes them."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_modules.files import replacing
from iac_lightning.report.page import ExtraFigure


def write_figure(figure: ExtraFigure, folder: Path, command: str) -> Path:
    """Write `<name>.png`; returns its path.

    Args:
        figure: with a name.
        folder: where to.
        command: what makes it, where the figure does not say.
    """
    path = folder / f"{figure.name}.png"
    with replacing(path) as temporary:
        temporary.write_bytes(signed_png(figure, command))
    return path


def signed_png(figure: ExtraFigure, command: str) -> bytes:
    """The figure with what it shows, its sample and the command that makes it in the file's text fields."""
    facts = PngInfo()
    for key, text in (
        ("Title", figure.title),
        ("Description", figure.caption),
        ("Source", figure.source),
        ("Comment", figure.command or command),
    ):
        facts.add_itxt(key, text)
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(figure.png)) as image:
        image.save(buffer, format="PNG", pnginfo=facts)
    return buffer.getvalue()
