"""Bringing Dagster's storage in Postgres to the version of this code, before anything of it starts.

    python -m datacube_assets.orchestration.migrate

`dagster instance migrate` does as much for a person. This is for Compose and Kubernetes, where it has to be
possible before every start: it waits for Postgres, only one of several works at a time, and a storage that
a newer version has migrated already is left alone, so that the way back to an older version is open. It
does not ask for the run launcher, which on Kubernetes needs the token of an account.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from datacube_assets.orchestration.startup import importing

if TYPE_CHECKING:
    from alembic.config import Config
    from dagster import DagsterInstance

WAIT_SECONDS = 120.0
"""How long Postgres may take to answer."""
_POLL_SECONDS = 2.0
_LOCK = 0x6461_7461_6375_6265
"""Any number that nobody else locks in this database."""


def migrate() -> None:
    """Migrate the storage of DAGSTER_HOME. Raises ClickException with the reason."""
    with importing():
        from dagster_postgres.run_storage import PostgresRunStorage, run_storage
        from dagster_postgres.utils import pg_alembic_config
        from sqlalchemy import text

    with _instance() as instance:
        storage = instance.run_storage
        if not isinstance(storage, PostgresRunStorage):
            raise click.ClickException("Dagster's storage is not in Postgres: use `dagster instance migrate`")
        with storage.connect() as connection:
            # Held until this connection ends, however this process does.
            connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
            found, own = storage.alembic_version() or (None, None)
            if found is not None and not _is_known(found, pg_alembic_config(run_storage.__file__)):
                click.echo(
                    f"Dagster's storage is of a newer version ({found}; this one has {own}): left alone."
                )
                return
            instance.upgrade(click.echo)
            click.echo(f"Dagster's storage is at {own}, it was at {found or 'none'}.")


def _instance() -> DagsterInstance:
    """Dagster's storage, once Postgres answers; tables of an empty one are made by opening it."""
    from dagster import DagsterInstance
    from dagster_postgres.utils import DagsterPostgresException
    from sqlalchemy.exc import OperationalError

    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return DagsterInstance.get()
        except (OperationalError, DagsterPostgresException) as error:
            if time.monotonic() > end:
                raise click.ClickException(f"Postgres does not answer: {error}") from None
            click.echo("Waiting for Postgres ...")
            time.sleep(_POLL_SECONDS)


def _is_known(revision: str, config: Config) -> bool:
    from alembic.script import ScriptDirectory

    return revision in {one.revision for one in ScriptDirectory.from_config(config).walk_revisions()}


def main() -> None:
    try:
        migrate()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
