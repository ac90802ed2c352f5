"""The documentation says what is so: links lead somewhere, references fit the code, commands work."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datacube_assets_tests.integration.commands import (
    README,
    ROOT,
    TOUR,
    fenced_commands,
    make_checkout,
    nothing_set,
    run,
)


def test_the_site_is_built_and_no_link_in_it_is_dead(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "concepts.html").read_text()
    assert "s_sum_t_sum" in page


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    shutil.copy(ROOT / README, tmp_path)
    page = docs / "dask.md"
    page.write_text(page.read_text() + "\n[nowhere](concepts.md#nothing-of-the-kind) [gone](gone.md)\n")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "dummy", docs, tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "nothing-of-the-kind" in done.stderr
    assert "gone.md" in done.stderr


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- commands --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("checkout"))


def test_commands_of_the_readme_do_what_it_says(checkout: Path) -> None:
    commands = fenced_commands(README)
    environment = nothing_set(checkout)
    demo, head = fenced_commands(TOUR)[:2]
    assert demo == commands[0] == "make demo"
    assert "toy-crop-model rainfall-low" in run(demo, checkout, environment)
    assert run(head, checkout, environment).startswith("timestamp,s_sum_t_sum,")
    assert ": 0 written," in run(demo, checkout, environment)
    for command in commands:
        if "my-model" in command or "my-prices" in command:
            run(command, checkout, environment)
    buckets = checkout / "datacube-home" / "buckets"
    assert (buckets / "models" / "my-model" / "first" / "results" / "results.json").exists()
    assert (buckets / "indicators" / "my-prices" / "indicator" / "results" / "results.json").exists()
