"""What comments and pages cite is there: pages of `docs/`, sections in them, modules and tests.

Links between the pages of `docs/` are looked at when their site is built; here are all other files, in which
a page is cited as `docs/specification/reader.md#names-in-keys`, and the links of pages outside `docs/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (".ci", "benchmarks", "datacube_assets", "datacube_assets_tests", "docs", "infra")
KINDS = frozenset(("", ".css", ".html", ".ipynb", ".js", ".md", ".py", ".sh", ".toml", ".yaml", ".yml"))
GENERATED = frozenset(("__pycache__", "vendor"))
CITATION = re.compile(r"(?<![\w./-])docs/(?P<page>[\w/.-]+\.md)(?:#(?P<section>[\w-]+))?")
LINK = re.compile(r"\]\((?P<page>[^)#:\s]+\.md)(?:#(?P<section>[\w-]+))?\)")
PAPERS = re.compile(r"\bCONTRACT[S]\b|\bDESIG[N]\b|\([A-J]\.[0-9]+[,);]")
"""The papers that the code was written after, whole or as the number of a section. They are not here."""


def sources() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in KINDS)
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            known = path.suffix in KINDS and not GENERATED.intersection(path.parts)
            if known and path.is_file() and path != Path(__file__):
                yield path


def sections(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#{1,4} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


_sections = cache(sections)


def problem(page: Path, section: str | None) -> str | None:
    if not page.is_file():
        return "no such page"
    return "no such section" if section and section not in _sections(page) else None


def dead(text: str, *, folder: Path | None = None) -> list[str]:
    """What is cited in vain; `folder`: of a page outside `docs/`, whose links are looked at too."""
    cited = [(one[0], ROOT / "docs" / one["page"], one["section"]) for one in CITATION.finditer(text)]
    if folder:
        cited += [(one[0], folder / one["page"], one["section"]) for one in LINK.finditer(text)]
    return [f"{words}: {why}" for words, page, section in cited if (why := problem(page, section))]


def test_every_page_and_section_that_is_cited_is_there() -> None:
    cited, found = 0, []
    for path in sources():
        text = path.read_text(errors="ignore")
        outside = path.suffix == ".md" and ROOT / "docs" not in path.parents
        found += [
            f"{path.relative_to(ROOT)}: {one}" for one in dead(text, folder=path.parent if outside else None)
        ]
        cited += len(CITATION.findall(text))
    assert cited > 50
    assert found == []


MODULE = re.compile(r"`((?:[\w-]+/)*[\w-]+\.py)`")
"""How a module is cited: by its name, or with some of the folders that it is in."""
OF_OTHERS = ROOT / "docs" / "coming-from-slow-tortoise.md"
"""The page that names the modules of the original."""


def missing_modules(text: str, there: Iterable[str]) -> list[str]:
    return [one for one in MODULE.findall(text) if not any(f"/{path}".endswith(f"/{one}") for path in there)]


def test_every_module_that_is_cited_is_there() -> None:
    there = [str(path.relative_to(ROOT)) for path in sources() if path.suffix == ".py"]
    there.append(str(Path(__file__).relative_to(ROOT)))
    cited = {path: path.read_text(errors="ignore") for path in sources() if path != OF_OTHERS}
    assert sum(len(MODULE.findall(text)) for text in cited.values()) > 100
    found = {str(path): gone for path, text in cited.items() if (gone := missing_modules(text, there))}
    assert found == {}


def test_a_module_that_was_moved_is_found() -> None:
    there = ["datacube_assets/storage/lake.py"]
    assert missing_modules("`lake.py`, `storage/lake.py`, `lakes.py`, `kernels/lake.py`", there) == [
        "lakes.py",
        "kernels/lake.py",
    ]


TEST = re.compile(r"`(?:[\w/]+\.py::)?(test_\w+)`")


def names_of_tests() -> set[str]:
    modules = [path for path in sources() if path.name.startswith("test_")] + [Path(__file__)]
    return {
        name for path in modules for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }


def test_every_test_that_a_page_names_is_there() -> None:
    there = names_of_tests()
    named = {path: TEST.findall(path.read_text()) for path in sources() if path.suffix == ".md"}
    assert sum(map(len, named.values())) > 100
    gone = {str(path): lost for path, names in named.items() if (lost := sorted(set(names) - there))}
    assert gone == {}


def test_each_difference_from_the_original_has_a_test_with_its_number() -> None:
    page = (ROOT / "docs" / "differences.md").read_text()
    numbers = {int(number) for number in re.findall(r"^\*\*(\d+)\.", page, re.MULTILINE)}
    assert numbers == set(range(1, max(numbers) + 1))
    assert {
        int(found[1]) for name in names_of_tests() if (found := re.match(r"test_difference_(\d+)_", name))
    } == numbers


@pytest.mark.parametrize(
    "text",
    ["docs/nowhere.md", "(docs/lake.md#nothing-of-the-kind)", "`docs/specification/reader.md#calls-of-it`"],
)
def test_what_is_cited_in_vain_is_found(text: str) -> None:
    assert len(dead(f"See {text}.")) == 1


def test_a_dead_link_of_a_page_outside_the_docs_is_found() -> None:
    assert dead("[here](docs/lake.md#the-lake) [gone](../gone.md) [s](docs/lake.md#gone)", folder=ROOT) == [
        "docs/lake.md#gone: no such section",
        "](../gone.md): no such page",
        "](docs/lake.md#gone): no such section",
    ]


def test_no_paper_is_cited_that_is_not_in_the_repository() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {one[0]}"
        for path in sources()
        for one in PAPERS.finditer(path.read_text(errors="ignore"))
    ]
    assert found == []
