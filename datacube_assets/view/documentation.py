"""The documentation, where the page is served: the Markdown of the folder `docs`, as plain pages.

So links from the Dagster UI lead somewhere without any configuration. The site that `make docs` builds has a
search and a table of contents besides; it is not needed here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

FOLDERS = (Path(__file__).parents[1] / "docs", Path(__file__).parents[2] / "docs")
"""Where the folder is in an installed package, and in a working copy."""
_FILES = (".png", ".svg")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{up}icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{up}style.css">
</head>
<body class="doc">
<nav aria-label="Pages"><a href="{up}docs/index.md">All pages</a> <a href="{up}">Datacube view</a></nav>
<main id="text">
{body}
</main>
</body>
</html>
"""


def folder() -> Path | None:
    """The folder of the documentation; None where it is not installed."""
    return next((one for one in FOLDERS if (one / "index.md").is_file()), None)


def file(name: str) -> Path | None:
    """A file beside the pages, such as a picture; None where there is none."""
    docs = folder() if "\0" not in name else None
    path = (docs / name).resolve() if docs else None
    inside = docs is not None and path is not None and docs.resolve() in path.parents
    return path if path is not None and inside and path.suffix in _FILES and path.is_file() else None


def page(name: str) -> str | None:
    """A page as HTML, by its path below the folder (`objects.md`, or `objects.html`); None without one."""
    docs = folder()
    if docs is None or "\0" in name:
        return None
    path = (docs / re.sub(r"\.html$", ".md", name)).resolve()
    if docs.resolve() not in path.parents or path.suffix != ".md" or not path.is_file():
        return None
    up = "../" * (name.count("/") + 1)
    # The index of the site is made of the README, whose links start elsewhere.
    is_index = path == docs.resolve() / "index.md"
    return rendered(f"# Documentation\n\n{_listed(docs)}" if is_index else path.read_text("utf-8"), up)


def _listed(docs: Path) -> str:
    """The pages, by their titles."""
    lines = []
    for path in sorted(docs.rglob("*.md")):
        name = path.relative_to(docs).as_posix()
        if name != "index.md":
            title = next((line[2:] for line in path.read_text().splitlines() if line.startswith("# ")), name)
            lines.append(f"- [{title}]({name})")
    return "\n".join(lines)


def rendered(text: str, up: str) -> str:
    """Markdown of ours as a page; raw HTML in it is shown as text."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    title = "Documentation"
    for token, heading in _headings(tokens):
        token.attrSet("id", _anchor(heading))
        title = heading if token.tag == "h1" else title
    # Whoever has a keyboard only has to reach what scrolls sideways.
    body = markdown.renderer.render(tokens, markdown.options, {}).replace("<pre>", '<pre tabindex="0">')
    return _PAGE.format(title=escape(title), up=up, body=body)


def _headings(tokens: list[Token]) -> Iterator[tuple[Token, str]]:
    for token, inline in itertools.pairwise(tokens):
        if token.type == "heading_open":
            yield token, "".join(child.content for child in inline.children or ())


def _anchor(heading: str) -> str:
    """The anchor of a heading, as links in the pages expect it."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))
