"""The findings of a check as one HTML page, with pictures, that needs nothing else and asks nobody.

What is found is in `check.py`. Every name comes from outside, and is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from datacube_assets.operations.check import Findings

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
body { color: #222; background: #fff; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #999; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.refused, .warning, .fine { border-left: 4px solid #b00020; padding-left: 1rem; }
.warning { border-color: #b8860b; }
.fine { border-color: #2e7d32; }
td { max-width: 24rem; overflow-wrap: break-word; }
img { max-width: 100%; }
"""
_LISTED = 200
"""Columns and features that are listed."""


def page(found: Findings) -> str:
    """The whole page."""
    title = f"Check of {found.run}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        _outcome(found),
        *(
            _section(f"Warning: {one.name}", f'<p class="warning">{_text(one.says)}</p>')
            for one in found.warnings
        ),
        _rows(found),
        _table(
            "Columns", ("column", "becomes", "why"), [vars(one).values() for one in found.columns[:_LISTED]]
        ),
        _table("Features", ("feature", "rows"), list(found.features.items())[:_LISTED]),
        _times_and_places(found),
        _objects(found),
        *(_picture(name, png) for name, png in found.pictures.items()),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{_text(title)}</title>\n'
        # Nothing of it may load or run anything, whatever names hold.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(filter(None, parts)) + "\n</body>\n</html>\n"
    )


def _outcome(found: Findings) -> str:
    if found.errors:
        said = "".join(f"<p>{_text(error)}</p>" for error in found.errors)
        return f'<div class="refused" role="alert"><p><strong>It would be refused.</strong></p>{said}</div>'
    number = len(found.warnings)
    told = f"It can be published, with {number} warning{'' if number == 1 else 's'}." if number else "Fine."
    return f'<p class="{"warning" if number else "fine"}"><strong>{told}</strong></p>'


def _rows(found: Findings) -> str:
    if found.rows is None:
        return ""
    counts = [
        (what, reason, number)
        for what, some in (("dropped", found.dropped), ("kept", found.repaired))
        for reason, number in some.items()
        if number
    ]
    examples = [
        (reason, one.part, one.row, one.timestamp, one.value)
        for reason, some in found.examples.items()
        for one in some
    ]
    return (
        f"<h2>Rows</h2><p>{found.rows:,} rows, of which {found.rows_kept:,} are kept.</p>"
        + _table("", ("", "reason", "rows"), counts)
        + _table("Examples", ("reason", "file", "row", "timestamp", "value"), examples)
    )


def _times_and_places(found: Findings) -> str:
    if found.first is None:
        return ""
    lines = [
        f"From {found.first} to {found.last}",
        *found.months_and_years,
    ]
    lines += [f"{number:,} regions of the level {level}" for level, number in found.places.items()]
    lines.append("There are tiles" if found.has_tiles else "There are no tiles")
    return _section(
        "Times and places", "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"
    )


def _objects(found: Findings) -> str:
    if not found.objects:
        return ""
    rows = [(name, one.objects, one.bytes) for name, one in found.objects.items()]
    whole = ("all", found.total.objects, found.total.bytes)
    about = f"<p>Publishing takes about {found.about_seconds or 0:,.0f} s.</p>"
    return _table("Objects", ("family", "objects", "bytes, about"), [*rows, whole]) + about


def _picture(name: str, png: bytes) -> str:
    image = base64.b64encode(png).decode()
    return _section(name, f'<img alt="{_text(name)}" src="data:image/png;base64,{image}">')


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{body}</section>"


def _table(title: str, header: Sequence[str], rows: Sequence[Iterable[object]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return _section(title, table) if title else table


def _cell(cell: object) -> str:
    if isinstance(cell, int):
        return f'<td class="number">{cell:,}</td>'
    return f"<td><code>{_text(cell)}</code></td>" if cell is not None else "<td>(missing)</td>"


def _text(text: object) -> str:
    return escape("".join(sign if sign.isprintable() else " " for sign in str(text)))
