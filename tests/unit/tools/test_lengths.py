"""The check of lengths: it counts as an editor does, and an exception that nobody needs fails."""

from pathlib import Path

import pytest

from tools.lengths import measured, problems

LIMITS = [{"folders": ["house"], "file": 10, "function": 3}]
CODE = '''class A:
    def short(self):
        """Three lines."""
        return 1

    async def long(self):
        if True:
            def inner():
                return 1
        return inner
'''


@pytest.fixture
def house(tmp_path: Path) -> Path:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "a.py").write_text(CODE, encoding="utf-8")
    return tmp_path


def exception(name: str, lines: int, reason: str = "one table") -> dict[str, object]:
    return {"limits": LIMITS, "exceptions": {name: {"lines": lines, "reason": reason}}}


def test_lines_of_files_methods_and_inner_functions(house: Path) -> None:
    assert list(measured(house, "house")) == [
        ("house/a.py", "file", 10),
        ("house/a.py::A.short", "function", 3),
        ("house/a.py::A.long", "function", 5),
        ("house/a.py::A.long.inner", "function", 2),
    ]


def test_a_function_over_its_limit_is_named(house: Path) -> None:
    (only,) = problems(house, {"limits": LIMITS})
    assert only.startswith("house/a.py::A.long: 5 lines, a function has 3 at most")


def test_one_line_more_makes_a_file_too_long(house: Path) -> None:
    with (house / "house" / "a.py").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert any(
        problem.startswith("house/a.py: 11 lines, a file has 10")
        for problem in problems(house, exception("house/a.py::A.long", 5))
    )


def test_an_exception_holds_up_to_its_own_length(house: Path) -> None:
    assert problems(house, exception("house/a.py::A.long", 5)) == []
    assert "has 4 at most" in problems(house, exception("house/a.py::A.long", 4))[0]


def test_an_exception_needs_a_reason(house: Path) -> None:
    assert problems(house, exception("house/a.py::A.long", 5, reason="")) == [
        "house/a.py::A.long: an exception needs a reason"
    ]


@pytest.mark.parametrize("name", ["house/a.py", "house/a.py::A.short", "house/gone.py"])
def test_an_exception_that_is_not_needed_fails(house: Path, name: str) -> None:
    assert f"{name}: nothing here is over the limit; take the exception out" in problems(house, exception(name, 99))


def test_a_folder_without_code_is_a_mistake_of_the_list(house: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no Python file"):
        problems(house, {"limits": [{"folders": ["hose"], "file": 10, "function": 3}]})
