"""Break the product line by line and see whether a test notices.

`mutmut` changes one expression at a time in the files of `[tool.mutmut]` (pyproject.toml) and runs the tests that pass
through it. What it cannot reach (constants, decorated functions, and mistakes that are more than one expression) is in
`by_hand.toml`. A mutant that no test kills must be in `equivalent.toml`, with the reason why none could. See README.md
beside this file.

    python tests/mutation/run.py                     everything
    python tests/mutation/run.py 'data_modules.*'    mutants of some modules (patterns of names as mutmut prints them)
    python tests/mutation/run.py --no-run            judge the results that lie in mutants/ already
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PACKAGES = ("data_modules", "iac_lightning")
COPIED = (*PACKAGES, "benchmarks", "tests", "experiments", "pyproject.toml")
"""What the tests of a mutant by hand need."""

_EXIT_CODES = {0: "survived", 1: "killed", 3: "killed", 33: "survived"}
"""pytest's, and mutmut's where no test passes through the function."""
_EXIT_CODES |= dict.fromkeys((36, 24, -24, 152, 255), "killed")  # took too long: an endless loop is noticed too


@dataclass(frozen=True)
class Mutant:
    """One change of the product.

    Attributes:
        name: as mutmut calls it, or "by hand 3".
        file: name of the file without its folder, which may move.
        function: that was changed; empty by hand.
        before: lines that were taken out, without indentation.
        after: lines that came in their place.
        status: killed, survived, or why it could not be judged.
    """

    name: str
    file: str
    function: str
    before: str
    after: str
    status: str


@dataclass(frozen=True)
class Equivalent:
    """A mutant that no test could kill, or a kind of them.

    Attributes:
        why: the reason.
        file: as in `Mutant`; any when empty.
        function: as in `Mutant`; any when empty.
        before: text that stands in the lines taken out.
        after: regular expression, found in the lines that came in their place.
    """

    why: str
    file: str = ""
    function: str = ""
    before: str = ""
    after: str = ""

    def fits(self, mutant: Mutant) -> bool:
        """Whether the mutant is (of the kind of) this one."""
        return (
            self.file in ("", mutant.file)
            and self.function in ("", mutant.function)
            and self.before in mutant.before
            and re.search(self.after, mutant.after) is not None
        )


def run_mutmut(patterns: list[str], children: int) -> None:
    """Make and judge the mutants; results lie in `mutants/`."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children), *patterns]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # With the tree itself on the path, tests would import the product unchanged.
    environment.pop("PYTHONPATH", None)
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def mutmut_results(patterns: list[str]) -> list[Mutant]:
    """What the last run of mutmut found, with the difference where the mutant lives."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.utils.format_utils import orig_function_and_class_names_from_key

    found = []
    for meta in sorted((ROOT / "mutants").rglob("*.py.meta")):
        path = meta.relative_to(ROOT / "mutants").with_suffix("")
        for name, code in json.loads(meta.read_text())["exit_code_by_key"].items():
            if patterns and not any(fnmatch(name, pattern) for pattern in patterns):
                continue
            status, before, after = _EXIT_CODES.get(code, f"not judged (exit code {code})"), "", ""
            if status != "killed":
                lines = get_diff_for_mutant(name, path=path).splitlines()[2:]
                before, after = ("\n".join(x[1:].strip() for x in lines if x[:1] == sign) for sign in "-+")
            function, _ = orig_function_and_class_names_from_key(name)
            found.append(Mutant(name, path.name, function.rpartition(".")[-1], before, after, status))
    return found


def run_by_hand(entries: list[dict[str, str]]) -> list[Mutant]:
    """Apply each mutant of `by_hand.toml` to a copy of the tree and run its test.

    Raises:
        SystemExit: when a file, text or test is no longer found exactly once, or a test fails without a mutant.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, tree / name)
        places = []
        for number, entry in enumerate(entries, start=1):
            where = f"tests/mutation/by_hand.toml, mutant {number}"
            path, test = (
                the_file(tree, entry["file"], PACKAGES, where),
                the_file(tree, entry["test"], ("tests",), where),
            )
            if (times := path.read_text().count(entry["before"])) != 1:
                raise SystemExit(f"{where}: found {times} times in {entry['file']}, expected once: {entry['before']}")
            places.append((path, test))
        unchanged = pytest_in(tree, sorted({str(test) for _, test in places}))
        if unchanged.returncode:
            raise SystemExit(f"by hand: a test fails without a mutant\n{(unchanged.stdout + unchanged.stderr)[-3000:]}")
        for number, (entry, (path, test)) in enumerate(zip(entries, places, strict=True), start=1):
            text = path.read_text()
            path.write_text(text.replace(entry["before"], entry["after"]))
            code = pytest_in(tree, [str(test)]).returncode
            path.write_text(text)
            status = _EXIT_CODES.get(code, f"not judged (exit code {code})")
            before, after = entry["before"].strip(), entry["after"].strip()
            found.append(Mutant(f"by hand {number}", Path(entry["file"]).name, "", before, after, status))
    return found


def pytest_in(tree: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run tests in a copy of the tree until one fails."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def the_file(tree: Path, name: str, folders: tuple[str, ...], where: str) -> Path:
    """The one file of that name, or whose path ends in it, below some folders.

    Raises:
        SystemExit: when there is none or more than one.
    """
    found = [path for folder in folders for path in (tree / folder).rglob(name)]
    if len(found) != 1:
        places = ", ".join(str(path.relative_to(tree)) for path in found)
        raise SystemExit(f"{where}: {len(found)} files are called {name} ({places}); name its folder too")
    return found[0]


def report(mutants: list[Mutant], equivalents: list[Equivalent], whole: bool) -> bool:
    """Print the result by file and what survived unexpectedly; whether all is well."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    unexpected, used = [], set()
    for mutant in mutants:
        kind = mutant.status
        if kind == "survived":
            fitting = [entry for entry in equivalents if entry.fits(mutant)]
            used.update(fitting)
            kind = "equivalent" if fitting else kind
        counts[mutant.file]["killed" if kind == "killed" else "equivalent" if kind == "equivalent" else "survived"] += 1
        if kind not in ("killed", "equivalent"):
            unexpected.append(mutant)
    columns = ("killed", "equivalent", "survived")
    print(f"{'file':28}" + "".join(f"{column:>12}" for column in columns))
    for file, row in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        print(f"{file:28}" + "".join(f"{row[column]:12}" for column in columns))
    for mutant in unexpected:
        print(f"\n{mutant.status}: {mutant.name} ({mutant.function} in {mutant.file})")
        print(*(f"  - {line}" for line in mutant.before.splitlines()), sep="\n")
        print(*(f"  + {line}" for line in mutant.after.splitlines()), sep="\n")
    stale = [entry for entry in equivalents if entry not in used] if whole else []
    for entry in stale:
        print(f"\nequivalent.toml, nothing survives that fits: {entry}")
    return not unexpected and not stale


def main() -> None:
    """Run, judge, and exit with 1 where a mutant survived or an entry is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="names of mutants, with * (default: all, and those by hand)")
    parser.add_argument("--children", type=int, default=2, help="mutants judged at once")
    parser.add_argument("--no-run", action="store_true", help="judge the results that are there")
    settings = parser.parse_args()
    os.chdir(ROOT)  # where mutmut looks for its settings
    start = time.monotonic()
    if not settings.no_run:
        shutil.rmtree(ROOT / "mutants", ignore_errors=True)
        run_mutmut(settings.patterns, settings.children)
    mutants = mutmut_results(settings.patterns)
    whole = not settings.patterns and not settings.no_run
    if whole:
        by_hand = tomllib.loads((HERE / "by_hand.toml").read_text())["mutant"]
        mutants += run_by_hand(by_hand)
    equivalents = [Equivalent(**e) for e in tomllib.loads((HERE / "equivalent.toml").read_text())["equivalent"]]
    well = report(mutants, equivalents, whole)
    print(f"\n{len(mutants)} mutants in {(time.monotonic() - start) / 60:.0f} minutes")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
