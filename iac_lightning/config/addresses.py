"""Addresses (URIs) that may hold a secret: settings are stored with every run, so no credential may stand in them."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote

HARMLESS_PARAMETERS = frozenset(
    {"charset", "connect_timeout", "read_default_file", "service", "sslmode", "sslrootcert", "timeout"}
)
"""Parameters of a database's address that are no secret; `service` and `read_default_file` name where one is kept."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_NAMED_SECRET = re.compile(
    r"(pass(word|wd|phrase)?|pwd|secret|token|credentials?|signature|sig|auth|(api|access|account|private)?[_-]?key)\s*=",
    re.IGNORECASE,
)
_TOKEN = re.compile(
    r"\b(gh[opsur]_\w{16}|github_pat_\w{16}|glpat-[\w-]{16}|dapi[0-9a-f]{16}|sk-\w{16}|xox[a-z]-\w{8}|AKIA[0-9A-Z]{12}"
    r"|eyJ[\w-]{16})"
)
"""How tokens of well-known services begin: they are recognised wherever they stand."""


def holds_secret(text: str) -> bool:
    """Whether an address may hold a credential, in plain or percent-encoded.

    A user name counts as one, for servers take a token in its place; so do parameters (but `HARMLESS_PARAMETERS` of a
    database), what follows a `#`, and whatever an address without a scheme has before an `@`.
    """
    return any(_may_hold_secret(plain) for plain in _decodings(text))


def mentions_secret(text: str) -> bool:
    """Whether a text, such as a line of shell, contains an address that `holds_secret`."""
    return any("://" in _decodings(word)[-1] and holds_secret(word) for word in text.split())


def shown_address(text: str) -> str:
    """An address as it may be printed: the scheme alone where it may hold a secret."""
    if not holds_secret(text):
        return text
    found = _ADDRESS.match(text)
    return f"{found.group(1)}://…" if found else "…"


def without_secrets(text: str) -> str:
    """A message in which every address that may hold a secret is cut down to its scheme."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]{0,40}(?:://|%3A)[^\s'\"]*", lambda found: shown_address(found.group()), text)


def _decodings(text: str) -> list[str]:
    """The text as written, and percent-decoded until nothing changes."""
    found = [text]
    while (plain := unquote(found[-1])) != found[-1]:
        found.append(plain)
    return found


def _may_hold_secret(text: str) -> bool:
    if _TOKEN.search(text) or _NAMED_SECRET.search(text):
        return True
    found = _ADDRESS.match(text)
    if found is None:
        return "@" in text
    scheme, rest = found.group(1).lower(), found.group(2)
    place, _, parameters = rest.partition("?")
    if scheme == "sqlite":  # a file: an @ may stand in the name of a folder
        place = place.partition("/")[0]
    names = {name.lower() for name, _ in parse_qsl(parameters, keep_blank_values=True)}
    harmless = set() if scheme.startswith(("http", "databricks")) else HARMLESS_PARAMETERS
    profile = scheme.startswith("databricks") and place
    return "@" in place or ";" in place or "#" in rest or bool(profile) or not names <= harmless
