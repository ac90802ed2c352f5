"""The pages of `docs/reference`, written from the code: `make docs`.

    python docs/reference.py           write them
    python docs/reference.py --check   fail if one is not what the code says

What the code cannot tell belongs in the other pages.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
from dagster import AssetsDefinition, AssetSpec, TableSchema

from datacube_assets import read
from datacube_assets.cli import main as datacube
from datacube_assets.definitions import build_definitions
from datacube_assets.kernels import keys
from datacube_assets.kernels.schema import REGION_LEVELS, RESOLUTIONS, published_columns
from datacube_assets.settings import Settings

FOLDER = Path(__file__).parent / "reference"
WRITTEN = "<!-- Written by docs/reference.py. -->\n"


def pages() -> dict[str, str]:
    """Text of every page by the name of its file."""
    return {
        "cli.md": _page("The datacube command", _commands(datacube, "datacube")),
        "assets.md": _page("Assets", _assets()),
        "checks.md": _page("Asset checks", _checks()),
        "keys.md": _page("Keys of objects", _keys()),
        "read.md": _page("The read API", _read()),
    }


def _page(title: str, lines: Iterator[str]) -> str:
    return "\n".join((WRITTEN, f"# {title}\n", *lines)).rstrip() + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


# --- commands --------------------------------------------------------------------------------------


def _commands(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name, terminal_width=100)
    yield f"```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for sub, child in sorted(command.commands.items()):
            if not child.hidden:
                yield f"## {name} {sub}\n"
                yield from _commands(child, f"{name} {sub}")


# --- assets and checks -----------------------------------------------------------------------------


def _specs() -> Iterator[AssetSpec]:
    for asset in build_definitions(Settings().resolved()).assets or ():
        assert isinstance(asset, AssetsDefinition)
        yield from asset.specs


def _assets() -> Iterator[str]:
    yield "In the order in which a run makes them. What they are for is in [Concepts](../concepts.md).\n"
    specs = list(_specs())
    for spec in specs:
        yield f"## {spec.key.path[-1]}\n"
        yield f"{spec.description}\n"
        needed = {dep.asset_key for dep in spec.deps}
        names = [other.key.path[-1] for other in specs if other.key in needed]
        made_of = ", ".join(f"[{name}](#{name})" for name in names)
        facts: list[tuple[str, Any]] = [
            ("Group", f"`{spec.group_name}`"),
            ("Made of", made_of or "(nothing)"),
        ]
        yield "\n".join(f"* {name}: {value}" for name, value in facts) + "\n"
        schema = spec.metadata.get("dagster/column_schema")
        if schema is not None:
            assert isinstance(schema, TableSchema)
            yield _table(
                ("column", "type", "meaning"),
                [(f"`{one.name}`", one.type, one.description or "") for one in schema.columns],
            )


def _checks() -> Iterator[str]:
    yield "What each compares, and what to do when it fails, is in [Checks](../checks.md).\n"
    for definition in build_definitions(Settings().resolved()).asset_checks or ():
        for spec in definition.check_specs:
            yield f"## {spec.name}\n"
            yield f"{spec.description}\n"
            blocking = "nothing is made of the asset" if spec.blocking else "a warning"
            asset = spec.asset_key.path[-1]
            yield f"* Of: [{asset}](assets.md#{asset})\n* When it fails: {blocking}\n"


# --- keys ------------------------------------------------------------------------------------------


def _keys() -> Iterator[str]:
    yield (
        "Below `{model_id}/{run_id}/` in the bucket. `{res}` is "
        f"{' or '.join(f'`{one}`' for one in RESOLUTIONS)}, `{{level}}` one of "
        f"{', '.join(f'`{one}`' for one in REGION_LEVELS)}, `{{ts}}` the start of a month or year in ms UTC. "
        "What each object holds is in [Objects](../objects.md).\n"
    )
    feature = pa.array(["{feature}"])
    region, value = pa.array(["{region_id}"]), pa.array(["{value}"])
    made = {
        "Rows": keys.raw("{feature}"),
        "Regions": keys.region_lists("{feature}"),
        "Values of a qualifier": keys.qualifier_list("{feature}", "{qualifier}"),
        "Number of values": keys.qualifier_counts("{feature}"),
        "Timeseries": keys.global_timeseries(_RES, "{feature}"),
        "By qualifier": keys.qualifier_timeseries(_RES, "{feature}", "{qualifier}", "{column}"),
        "Of a region": keys.regional_timeseries(_RES, _LEVEL, feature, region)[0].as_py(),
        "Of a region, by qualifier": keys.regional_qualifier_timeseries(
            _RES, _LEVEL, feature, "{qualifier}", value, region
        )[0].as_py(),
        "Table of regions": keys.regional_map(_RES, _LEVEL, "{feature}", _TS, None),
        "Table of regions, by qualifier": keys.regional_map(_RES, _LEVEL, "{feature}", _TS, "{qualifier}"),
        "Extrema": keys.regional_extrema(_RES, _LEVEL, "{feature}"),
        "Statistics of the grid": keys.grid_stats(_RES, "{feature}", _TS),
        "Tile": keys.tiles(_RES, _ZOOM, feature, pa.array([_TS]), pa.array(["{x}"]), pa.array(["{y}"]))[
            0
        ].as_py(),
        "Results": keys.RESULTS,
    }
    yield _table(("object", "key"), [(name, f"`{key}`") for name, key in made.items()])
    for weighted in (False, True):
        columns = ", ".join(f"`{name}`" for name in published_columns(weighted))
        yield f"Figures of a datacube {'with' if weighted else 'without'} weights: {columns}.\n"


# --- the read API ----------------------------------------------------------------------------------


def _read() -> Iterator[str]:
    yield "What `datacube_assets.read` gives. How to use it is in [Numbers for analysts](../analysts.md).\n"
    things = [(name, getattr(read, name)) for name in read.__all__]
    functions = [(name, one) for name, one in things if inspect.isfunction(one)]
    classes = [(name, one) for name, one in things if inspect.isclass(one)]
    for name, function in functions:
        yield f"## {name}\n"
        yield from _callable(name, function)
    for name, kind in classes:
        yield f"## {name}\n"
        yield f"```text\n{inspect.cleandoc(kind.__doc__ or '')}\n```\n"
        for attribute, one in vars(kind).items():
            if attribute.startswith("_"):
                continue
            if isinstance(one, property | cached_property):
                yield f"### {name}.{attribute}\n"
                yield _described(kind, attribute)
            elif inspect.isfunction(one):
                yield f"### {name}.{attribute}\n"
                yield from _callable(attribute, one, _described(kind, attribute))


def _callable(name: str, one: Any, described: str = "") -> Iterator[str]:
    # Annotations are texts, which a reader does not need to know; a function has an address, which changes.
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(one)))
    signature = re.sub(r"<function [^>]*<lambda> at \w+>|<function .*? at \w+>", "...", signature)
    yield f"```python\n{name}{signature}\n```\n"
    yield described or f"```text\n{inspect.getdoc(one) or ''}\n```\n"


def _described(kind: type, attribute: str) -> str:
    """What it does; of a method that answers for a class above, as it is said there."""
    for one in kind.__mro__:
        found = inspect.getdoc(vars(one)[attribute]) if attribute in vars(one) else None
        if found:
            return f"```text\n{found}\n```\n"
    return ""


_RES: Any = "{res}"
_LEVEL: Any = "{level}"
_TS: Any = "{ts}"
_ZOOM: Any = "{zoom}"


def main(arguments: Sequence[str]) -> None:
    stale = []
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text)
    if stale and "--check" in arguments:
        sys.exit(f"docs/reference is not what the code says ({', '.join(stale)}): run `make docs`")


if __name__ == "__main__":
    main(sys.argv[1:])
