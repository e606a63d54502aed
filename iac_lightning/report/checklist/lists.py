"""What a checklist is, and the three that a page is held against.

Items are in words of our own: the published texts are copyrighted, and they count. Each item says what its number,
section and subject were compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """What a checklist asks for.

    Attributes:
        number: in the published list; empty where it has none, or where it could not be found.
        section: of the published list.
        asks: for what.
        where: keys of places (`places.PLACES`, `places.RUN_FILES`) that answer it, as far as the program knows.
        left: what of it only a person knows; empty: nothing.
        checked: keys of `Checklist.sources` that number and subject were compared with; empty: the published text of
            this item was not found.
    """

    number: str
    section: str
    asks: str
    where: tuple[str, ...] = ()
    left: str = ""
    checked: str = ""


@dataclass(frozen=True)
class Checklist:
    """A published list.

    Attributes:
        name: of the list.
        reference: authors, journal, year and DOI.
        sources: letter to a text that items were compared with, in words.
        about: what else a reader should know of the comparison, in a sentence.
        items: in the order of the list.
    """

    name: str
    reference: str
    sources: Mapping[str, str]
    about: str
    items: tuple[Item, ...]
