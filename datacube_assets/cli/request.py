"""What is to be made of which files, as arguments of commands: the parts, and what a request says of them.

What a request is, is in `dojo/request.py`; what becomes of it, up to the command.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from datacube_assets.cli.options import known_limits, read_json

if TYPE_CHECKING:
    from datacube_assets.dojo.request import DatacubeRequest

_NOBODY = {"model_id": "model", "run_id": "check"}
"""Ids where it makes no difference which."""


def request_options(*, ids: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Parts and options, given to the command as its `request`.

    Without `ids`, ids may be left out, and the whole request may come from a file.
    """

    def of(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_request(
            *,
            parts: tuple[str, ...],
            model_id: str | None,
            run_id: str | None,
            indicator: bool,
            qualifier_map: str,
            weight_column: str,
            thresholds: str,
            fill_timestamp: int,
            raw_count_threshold: int,
            timestamp_unit: str,
            request_file: str | None = None,
            **others: Any,
        ) -> None:
            from datacube_assets.dojo.request import INDICATOR_RUN_ID

            if request_file is not None:
                if parts:
                    raise click.UsageError("--request names the files itself; leave PART out")
                command(request=_from_file(request_file), **others)
                return
            if not parts:
                raise click.UsageError("Missing argument 'PART...'.")
            if indicator and run_id not in (None, INDICATOR_RUN_ID):
                raise click.UsageError(f"the run id of a dataset is `{INDICATOR_RUN_ID}`; leave --run-id out")
            if ids and not indicator and not run_id:
                raise click.UsageError("give --run-id, or --indicator for a dataset")
            if not indicator and run_id == INDICATOR_RUN_ID:
                raise click.UsageError(
                    f"the run id `{INDICATOR_RUN_ID}` is that of datasets; give --indicator"
                )
            request = _request(
                model_id=model_id or _NOBODY["model_id"],
                run_id=INDICATOR_RUN_ID if indicator else run_id or _NOBODY["run_id"],
                data_paths=[_absolute(part) for part in parts],
                is_indicator=indicator,
                qualifier_map=read_json("--qualifier-map", qualifier_map),
                weight_column=weight_column,
                qualifier_thresholds=known_limits(read_json("--thresholds", thresholds)),
                fill_timestamp=fill_timestamp,
                raw_count_threshold=raw_count_threshold,
                timestamp_unit=timestamp_unit,
            )
            command(request=request, **others)

        options = _options(ids=ids)
        for option in reversed(options):
            with_request = option(with_request)
        return with_request

    return of


def _options(*, ids: bool) -> list[Callable[[Callable[..., None]], Callable[..., None]]]:
    whole = [
        click.option(
            "--request",
            "request_file",
            metavar="FILE|-",
            help="A request as CauseMos sends it (JSON), in place of PART and what is said of it.",
        )
    ]
    return [
        # What stands in for parts is told apart later: a required argument would refuse --request.
        click.argument("parts", nargs=-1, required=ids, metavar="PART..."),
        click.option("--model-id", required=ids, metavar="ID", help="Id of the model or dataset."),
        click.option("--run-id", metavar="ID", help="Id of the run; with --indicator it is `indicator`."),
        click.option(
            "--indicator", is_flag=True, help="The parts are a dataset: publish into the indicators bucket."
        ),
        click.option(
            "--qualifier-map",
            default="{}",
            metavar="JSON|@FILE",
            help='Qualifier columns that break a feature down: \'{"yield": ["crop"]}\'.',
        ),
        click.option("--weight-column", default="", metavar="NAME", help="Column with the weights of rows."),
        click.option(
            "--thresholds",
            default="{}",
            metavar="JSON",
            help="Limits on qualifiers: max_count, regional_timeseries_count, regional_timeseries_max_level.",
        ),
        click.option(
            "--fill-timestamp", default=0, metavar="MS", help="Time of rows without one, ms UTC. [default: 0]"
        ),
        click.option(
            "--raw-count-threshold",
            default=10_000,
            metavar="N",
            help="Features with more rows get no raw.csv. [default: 10000]",
        ),
        click.option(
            "--timestamp-unit",
            type=click.Choice(["s", "ms", "us", "ns"]),
            default="ms",
            help="Unit of numeric timestamps. [default: ms]",
        ),
        *([] if ids else whole),
    ]


def _from_file(file: str) -> DatacubeRequest:
    from pydantic import ValidationError

    from datacube_assets.dojo.documents import reason_of
    from datacube_assets.dojo.request import DatacubeRequest

    try:
        document = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text())
        if not isinstance(document, dict):
            raise click.ClickException("--request: it has to be a JSON object")
        # Fields that are null count as absent, as at the gateway.
        return DatacubeRequest.model_validate(
            {name: value for name, value in document.items() if value is not None}
        )
    except OSError as error:
        raise click.ClickException(f"--request: {file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise click.ClickException(f"--request: {reason_of(error)}") from error
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"--request is no JSON: {error}") from error


def _absolute(part: str) -> str:
    return part if "://" in part else str(Path(part).expanduser().absolute())


def _request(**fields: object) -> DatacubeRequest:
    from pydantic import ValidationError

    from datacube_assets.dojo.request import DatacubeRequest

    try:
        return DatacubeRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=True)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-").replace("qualifier-thresholds", "thresholds")
        where = "".join(f" {part!r}" for part in first["loc"][1:])
        told = first["msg"].replace("valid tuple", "valid list")
        raise click.ClickException(f"{option}{where}: {told} (got {first['input']!r})") from error
