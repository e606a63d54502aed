"""A small phantom cohort, made once a session and shared by the workers of pytest-xdist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from data_modules.cohort.registry import HOME

SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def own_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The registry of test sets is not that of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("registry")
        patch.setenv(HOME, str(folder))
        yield folder


@pytest.fixture(scope="session")
def phantom_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cohort.csv` of twelve phantom patients, one series each, in all four splits."""
    from data_modules.phantom.cohort import make_phantom_cohort

    root = tmp_path_factory.getbasetemp()
    if root.name.startswith("popen-"):
        root = root.parent
    with FileLock(root / "phantom.lock"):
        fractions = {"pretrain": 0.25, "finetune": 0.25, "dev": 0.25, "test": 0.25}
        return make_phantom_cohort(root / "phantom", 12, seed=1, workers=1, max_series=1, fractions=fractions)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real CT, which lies beside the project where it is developed."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real CT in ../shared/data")
    return SHARED_DATA
