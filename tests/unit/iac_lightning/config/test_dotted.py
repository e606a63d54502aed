from __future__ import annotations

from iac_lightning.config.dotted import flat


def test_nested_settings_by_dotted_keys() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e.f": 3}) == {"a.b": 1, "a.c.d": [2], "e.f": 3}
    assert list(flat({"b": {"c": 1}, "a": 2})) == ["b.c", "a"]
    assert flat({"a": {}}) == {}
