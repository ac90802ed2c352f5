"""Fixtures of all tests: a home folder of one's own, and the shared real inputs where they are."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings

from datacube_assets.orchestration.startup import importing

if TYPE_CHECKING:
    from datacube_assets.development.s3_server import S3Server
    from datacube_assets_tests.integration.support import House

os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")

# The same examples on every run, so that a red build is a changed program; `search` looks for new ones, and
# for the smallest, which takes minutes where an example is a datacube.
settings.register_profile(
    "stable",
    deadline=None,
    derandomize=True,
    max_examples=15,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "stable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a whole system first: they take minutes, for which nobody should wait alone in the end."""
    items.sort(key=lambda item: not hasattr(getattr(item, "module", None), "system"))


def pytest_collection_finish() -> None:
    """Keep Python's collector out of all that was imported, as in the processes that are tested.

    It took a sixth of the time.
    """
    gc.collect()
    with importing():
        pass


MEMORY_BACKED = Path("/dev/shm")


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """A folder that is gone after the test: in memory where there is room, as a datacube is many files."""
    roomy = (
        os.access(MEMORY_BACKED, os.W_OK)
        and shutil.disk_usage(MEMORY_BACKED).free > 4 << 30
        and os.statvfs(MEMORY_BACKED).f_favail > 1_000_000
    )
    folder = Path(tempfile.mkdtemp(prefix="datacube-test-", dir=MEMORY_BACKED if roomy else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def house(quick_folder: Path) -> Iterator[House]:
    """Lake, buckets and Dagster storage of one's own."""
    # Imported here: tests of kernels have no need of Dagster, which takes two seconds to import.
    from datacube_assets_tests.integration.support import open_house

    with open_house(quick_folder / "home") as opened:
        yield opened


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real inputs and the original's outputs: `../shared`, or DATACUBE_SHARED."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("DATACUBE_SHARED") or beside)
    if not (folder / "golden").is_dir():
        pytest.skip(f"the shared inputs are not at {folder}; set DATACUBE_SHARED to where they are")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server with the buckets lake, models and indicators, which tests share: use own prefixes."""
    from datacube_assets.development.s3_server import s3_server as running

    with running() as server:
        yield server
