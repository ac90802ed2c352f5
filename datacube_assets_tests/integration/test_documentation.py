"""The documentation says what is so: links lead somewhere, references fit the code, commands work."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from datacube_assets_tests.integration.system import free_port

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


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
    shutil.copy(README, tmp_path)
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


def blocks(page: Path) -> list[str]:
    """The commands of a page: its blocks without a language, continued lines joined."""
    found = re.findall(r"^```\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(r"\\\n\s*", "", block).strip() for block in found]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a checkout that is set up, in which commands may leave what they like."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "pyproject.toml", "workspace.yaml", "datacube_assets", "infra", "docs"):
        (folder / name).symlink_to(ROOT / name)
    # The environment that these tests run in, whichever it is.
    environment = folder / ".venv"
    (environment / "bin").mkdir(parents=True)
    for program in Path(sys.executable).parent.iterdir():
        (environment / "bin" / program.name).symlink_to(program)
    (environment / ".installed").touch()
    return folder


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("DATACUBE_", "DAGSTER_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT)}


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_commands_of_the_readme_do_what_it_says(checkout: Path, environment: dict[str, str]) -> None:
    commands = blocks(README)
    demo, head = commands[:2]
    assert demo == "make demo"
    assert "toy-crop-model rainfall-low" in run(demo, checkout, environment)
    assert run(head, checkout, environment).startswith("timestamp,s_sum_t_sum,")
    assert ": 0 written," in run(demo, checkout, environment)
    (publish,) = (command for command in commands if "my-model" in command)
    run(publish, checkout, environment)
    buckets = checkout / "datacube-home" / "buckets"
    assert (buckets / "models" / "my-model" / "first" / "results" / "results.json").exists()
    assert (buckets / "indicators" / "my-prices" / "indicator" / "results" / "results.json").exists()


@pytest.fixture
def port(checkout: Path, environment: dict[str, str]) -> Iterator[int]:
    """Of the UI of `make dev`; the stand-ins have the next two, as the README says of 3000."""
    first = free_port()
    with subprocess.Popen(
        ["make", "dev", f"ARGS=--port {first}"], cwd=checkout, env=environment, start_new_session=True
    ) as process:
        try:
            yield first
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(30)


@pytest.mark.slow
def test_the_tour_of_the_readme_can_be_taken(checkout: Path, environment: dict[str, str], port: int) -> None:
    (finish,) = (command for command in blocks(README) if "simulator/runs/rainfall-high/finish" in command)

    def told(words: str) -> None:
        end = time.monotonic() + 200
        while True:
            with contextlib.suppress(httpx.TransportError):
                page = httpx.get(f"http://127.0.0.1:{port + 2}").text
                if words in re.sub(r"(<[^>]*>|\s)+", " ", page):
                    return
            assert time.monotonic() < end, f"CauseMos was not told: {words}"
            time.sleep(1)

    told("rainfall-low READY")
    run(finish.replace(":3001/", f":{port + 1}/"), checkout, environment)
    told("rainfall-high READY")
