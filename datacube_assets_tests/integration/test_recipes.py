"""The recipes of the contributing guide are done as written, in a copy of the package, and work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import datacube_assets
from datacube_assets_tests.environment import nothing_set
from datacube_assets_tests.integration.support import rows

PACKAGE = Path(datacube_assets.__file__).parent
GUIDE = PACKAGE.parent / "docs" / "contributing.md"
BLOCK = re.compile(r"^( *)```python\n(.*?)\n *```$", re.DOTALL | re.MULTILINE)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def steps(section: str) -> list[tuple[str, str, str]]:
    """Where and in which file each block of a section goes, and what it says."""
    text = GUIDE.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    found = []
    for _, block in BLOCK.findall(text):
        where, _, code = textwrap.dedent(block).partition("\n")
        told = re.fullmatch(r"# (at the end of|before \w+ in|as \w+ in) (\S+)", where)
        assert told, where
        found.append((told[1], told[2], code))
    return found


def follow(section: str, package: Path) -> None:
    """Do what a section says, in a copy of the package."""
    for where, name, code in steps(section):
        path = package / name
        text = path.read_text()
        kind, *named = where.removesuffix(" in").split(" ")
        if where == "at the end of":
            text = f"{text}\n\n{code}\n"
        elif kind == "before":
            at = text.index(f"\n{named[0]} = ")
            text = f"{text[:at]}\n{code}\n\n{text[at:]}"
        else:
            declared = re.search(rf"^{named[0]}\b.*? = \(\)$", text, re.MULTILINE)
            assert declared, named
            text = text.replace(declared[0], f"{declared[0][:-2]}(\n{code}\n)")
        path.write_text(text)
    constant = package / "partitions.py"
    raised = re.sub(
        r'CODE_VERSION = "(\d+)"', lambda found: f'CODE_VERSION = "{found[1]}0"', constant.read_text()
    )
    constant.write_text(raised)


class Copy:
    """A copy of the package, and its command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=ignored)
        self.package = folder / PACKAGE.name
        self.home = folder / "home"
        pq.write_table(rows(), folder / "part.parquet")

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "datacube_assets.cli", *arguments],
            cwd=self.folder,
            env={**nothing_set(), "PYTHONPATH": str(self.folder), "DATACUBE_HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def tests_pass_when_told_anew(self) -> None:
        """Unit tests that hold whole objects fail, are written anew, and pass."""
        shutil.copytree(PACKAGE.parent / "datacube_assets_tests", self.folder / "datacube_assets_tests")
        shutil.copy(PACKAGE.parent / "pyproject.toml", self.folder)
        assert not self.passes()
        self.passes("--inline-snapshot=create,fix")
        assert self.passes()

    def passes(self, *options: str) -> bool:
        tests = sorted((self.folder / "datacube_assets_tests" / "unit").glob("test_kernel_[dev]*.py"))
        options = ("-q", "-n", "0", "-p", "no:cacheprovider", *options)
        environment = {**nothing_set(), "PYTHONPATH": str(self.folder)}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert " passed" in done.stdout, done.stdout + done.stderr
        return done.returncode == 0

    def publish(self) -> Path:
        self.run("publish", "part.parquet", "--model-id", "m", "--run-id", "r")
        return self.home / "buckets" / "models" / "m" / "r"

    def is_well(self) -> None:
        """Its checks passed, and its objects are those that its tables give."""
        health = json.loads(self.run("inspect", "m:r", "--json"))
        assert (health["state"], health["faults"], health["warnings"]) == ("well", [], [])
        assert self.run("verify", "m:r").startswith("well")


@pytest.fixture
def copied(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_a_family_is_added_as_the_guide_says(copied: Copy) -> None:
    copied.publish()
    follow("Add an object family", copied.package)
    objects = copied.publish()
    assert (objects / "month/rain/cells/cells.csv").read_text().splitlines()[0] == "timestamp,cells"
    copied.is_well()


def test_a_figure_is_added_as_the_guide_says(copied: Copy) -> None:
    copied.publish()
    follow("Add an aggregation", copied.package)
    objects = copied.publish()
    header, first, *_ = (objects / "month/rain/timeseries/global/global.csv").read_text().splitlines()
    figures = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(figures["s_max_t_sum"]) == 2.0
    copied.is_well()
    copied.tests_pass_when_told_anew()
