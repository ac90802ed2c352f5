"""What several commands share: options that say where everything is, reading of arguments, telling of errors.

What one command alone needs belongs beside that command.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from datacube_assets.dojo.model_run import ModelRun


def store_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say where everything goes, given to the command as its `settings`."""

    @functools.wraps(command)
    def with_settings(
        *,
        home: str | None,
        lake: str | None,
        models_bucket: str | None,
        indicators_bucket: str | None,
        **others: Any,
    ) -> None:
        from datacube_assets.settings import Settings

        with told():
            settings = Settings.from_environment(
                DATACUBE_HOME=home,
                DATACUBE_LAKE=lake,
                DATACUBE_MODELS_BUCKET=models_bucket,
                DATACUBE_INDICATORS_BUCKET=indicators_bucket,
            )
        command(settings=settings, **others)

    options = [
        click.option(
            "--home", metavar="FOLDER", help="Folder for everything not placed elsewhere. [DATACUBE_HOME]"
        ),
        click.option("--lake", metavar="URL", help="Where tables are kept. [DATACUBE_LAKE]"),
        click.option("--models-bucket", metavar="URL", help="Bucket of model runs. [DATACUBE_MODELS_BUCKET]"),
        click.option(
            "--indicators-bucket", metavar="URL", help="Bucket of datasets. [DATACUBE_INDICATORS_BUCKET]"
        ),
    ]
    for option in reversed(options):
        with_settings = option(with_settings)
    return with_settings


def in_a_folder(_context: click.Context, _parameter: click.Parameter, file: Any) -> Any:
    """A file to be written; one whose folder is not there is refused before the work, and not after it."""
    if file is not None:
        path = file if isinstance(file, Path) else Path(file.name)
        if not path.absolute().parent.is_dir():
            raise click.BadParameter(f"there is no folder {path.parent}")
    return file


@contextlib.contextmanager
def told() -> Iterator[None]:
    """End the command with one line for errors that a user can do something about."""
    from datacube_assets.checks.judging.verdict import ChecksFailedError
    from datacube_assets.dojo.client import DojoError
    from datacube_assets.dojo.fetch import FetchError
    from datacube_assets.dojo.model_run import UnknownPartitionError
    from datacube_assets.kernels.errors import InputError
    from datacube_assets.settings import SettingsError
    from datacube_assets.storage.publishing import IncompleteDatacubeError
    from datacube_assets.storage.stores import StoreError

    known = (InputError, SettingsError, DojoError, FetchError, StoreError, IncompleteDatacubeError)
    try:
        yield
    except (*known, UnknownPartitionError, ChecksFailedError) as error:
        raise click.ClickException(str(error)) from error
    except BrokenPipeError:
        # Whoever reads the output, such as `head`, has enough of it: click ends the command.
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise click.ClickException(f"{error.strerror or error}{where}") from error


def named_run(key: str) -> ModelRun:
    """The run or dataset that an argument names. Ends the command where it names none."""
    from datacube_assets.dojo.model_run import ModelRun

    try:
        return ModelRun.named(key)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def read_json(option: str, text: str) -> object:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except OSError as error:
            raise click.ClickException(f"{option}: {text[1:]} cannot be read: {error.strerror}") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.ClickException(
            f'{option} is no JSON: {error}. Quote it: \'{{"feature": ["column"]}}\''
        ) from error


def known_limits(thresholds: object) -> object:
    from datacube_assets.dojo.request import QualifierThresholds

    # Other senders may add what they like; whoever types a name wants it heeded.
    known = list(QualifierThresholds.model_fields)
    unknown = [name for name in thresholds if name not in known] if isinstance(thresholds, dict) else []
    if unknown:
        raise click.ClickException(
            f"--thresholds {unknown[0]!r}: there is no such limit. Give {', '.join(known)}"
        )
    return thresholds


def known_tasks(tasks: str) -> list[str]:
    from datacube_assets.dojo.request import OUTPUT_TASKS

    named = [task.strip() for task in tasks.split(",") if task.strip()]
    unknown = [task for task in named if task not in OUTPUT_TASKS]
    if unknown:
        raise click.ClickException(
            f"--tasks {unknown[0]!r}: there is no such task. Give {', '.join(OUTPUT_TASKS)}"
        )
    return named


def age(_: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Seconds of `7d`, `12h`, `30m` or `0`; None where the option is not given."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:([dhm]))?", text.strip())
    if match is None or (match[2] is None and int(match[1])):
        raise click.BadParameter("give days, hours or minutes, such as 7d, 12h or 30m", param=option)
    return int(match[1]) * {"d": 86_400.0, "h": 3_600.0, "m": 60.0, None: 0.0}[match[2]]
