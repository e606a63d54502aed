"""What tests of a report share: a picture, a context, and a page taken apart."""

from __future__ import annotations

import io
from html.parser import HTMLParser

from PIL import Image

from iac_lightning.report.page import ReportContext


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, format="PNG")
    return buffer.getvalue()


PNG = picture()
CONTEXT = ReportContext(title="ViT <b>against</b> CNN", question="Which is better?", split="test", seed=0)


class Page(HTMLParser):
    """Everything that a page would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
