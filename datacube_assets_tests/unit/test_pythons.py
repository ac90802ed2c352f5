"""Which Pythons the project takes is said alike everywhere, and the lock serves all of them."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
(PYTHONS,) = (line.split() for line in re.findall(r"^PYTHONS := (.+)$", MAKEFILE, re.MULTILINE))
not_locked: Callable[[list[Mapping[str, Any]], str], list[str]] = runpy.run_path(
    str(ROOT / "infra" / "wheels.py")
)["not_locked"]


def test_package_makefile_image_and_tools_name_the_same_pythons() -> None:
    takes = SpecifierSet(PROJECT["project"]["requires-python"])
    named = [f"3.{minor}" for minor in range(8, 30) if takes.contains(f"3.{minor}.0")]
    assert named == PYTHONS
    classified = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert classified == PYTHONS
    first, last = (tuple(map(int, version.split("."))) for version in (PYTHONS[0], PYTHONS[-1]))
    assert f"{first} <= sys.version_info[:2] < {(last[0], last[1] + 1)}" in MAKEFILE
    tried = re.findall(r"python(3\.\d+)", MAKEFILE.partition("PYTHON ?=")[2].partition("\n\n")[0])
    assert tried[:4] == PYTHONS[::-1]
    images = re.findall(r"^FROM python:(3\.\d+)", (ROOT / "infra" / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 2
    assert set(images) <= set(PYTHONS)
    # Types and style of the oldest, so that nothing newer is used by mistake.
    assert PROJECT["tool"]["mypy"]["python_version"] == PYTHONS[0]
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + PYTHONS[0].replace(".", "")


def test_the_python_of_these_tests_is_one_of_them() -> None:
    assert f"3.{sys.version_info.minor}" in PYTHONS


@pytest.mark.parametrize(
    ("requires", "python", "found"),
    [
        ('Two_Names ; python_version >= "3.13"', "3.14", ["one asks for Two_Names, which is not locked"]),
        ('two-names ; python_version >= "3.13"', "3.12", []),
        ('two-names ; python_version >= "3.9"', "3.14", ["one asks for two-names, which is not locked"]),
        ("O.ne>=1", "3.14", ["one asks for O.ne, which is not locked"]),
        ("One>=1", "3.14", []),
        ('two-names ; extra == "all"', "3.14", []),
    ],
)
def test_what_a_wheel_asks_for_on_a_python_has_to_be_locked(
    requires: str, python: str, found: list[str]
) -> None:
    assert not_locked([{"name": "one", "requires_dist": [requires]}, {"name": "none"}], python) == found
