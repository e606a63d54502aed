"""Coverage is that of the unit tests: measuring whole trainings too takes half their time again."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("no_cover")
