"""What an experiment that cannot be read complains of."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_modules.errors import UserError
from iac_lightning.config.reading import ConfigError, load_experiment


def problems(path: Path | None, *overrides: str) -> list[str]:
    """The lines below the head of its message."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    assert isinstance(caught.value, UserError)
    head, *lines = str(caught.value).split("\n  ")
    expected = "1 problem in the settings:" if len(lines) == 1 else f"{len(lines)} problems in the settings:"
    assert head == expected
    return lines


def only(*overrides: str) -> str:
    """The one problem of overrides."""
    (line,) = problems(None, "name=a", *overrides)
    return line
