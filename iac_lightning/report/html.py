"""Templates of the pages: self-contained HTML, without scripts or network."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from pathlib import Path

import jinja2

from iac_lightning.report.words import duration, interval, number, p_value


def data_uri(image: bytes) -> str:
    """A PNG inside the page."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def place(image: bytes) -> str:
    """Name of the place where a picture stands on the page."""
    return f"figure-{sha256(image).hexdigest()[:10]}"


def slug(title: str) -> str:
    """A heading as the name of a place on the page."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def page_template(name: str) -> jinja2.Template:
    """A template below this folder, with the filters of the pages; a name it does not get is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(png=data_uri, place=place, slug=slug, number=number, p_value=p_value, duration=duration)
    environment.globals["interval"] = interval
    return environment.get_template(name)
