"""What tests of the operator's commands share: a home folder, and the commands run in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from datacube_assets.cli import main
from datacube_assets_tests.integration.support import begin_home, rows

KEY = "toy:one"
SETTINGS = ("DATACUBE_", "DOJO_", "CAUSEMOS_", "DAGSTER_HOME")


@dataclass(frozen=True)
class Place:
    """A home folder, and the `datacube` command in it."""

    home: Path

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        """Run a command as a user would, with nothing set but what the arguments and the environment say."""
        begin_home(self.home)
        with pytest.MonkeyPatch.context() as patch:
            # Commands point Dagster to the home folder for the process they are in.
            patch.setenv("DAGSTER_HOME", "restored")
            patch.delenv("DAGSTER_HOME")
            patch.setenv("DATACUBE_HOME", str(self.home))
            return CliRunner().invoke(main, list(arguments), input=stdin)

    def json(self, *arguments: str, status: int = 0) -> Any:
        """What a command prints with --json; its exit status has to be this."""
        answer = self.run(*arguments, "--json")
        assert answer.exit_code == status, answer.output
        return json.loads(answer.stdout)

    def publish(self, run_id: str = "one", *options: str, **columns: Any) -> Result:
        """Publish a small part; columns of None are left out, which makes it fail for some."""
        part = self.home / f"{run_id}.parquet.gzip"
        part.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(**columns), part, compression="gzip")
        return self.run("publish", str(part), "--model-id", "toy", "--run-id", run_id, "--quiet", *options)

    @property
    def bucket(self) -> Path:
        return self.home / "buckets" / "models"

    def object(self, key: str, run_id: str = "one") -> Path:
        return self.bucket / "toy" / run_id / key

    def copy(self, folder: Path) -> Place:
        """The same elsewhere, to be damaged."""
        shutil.copytree(self.home, folder, symlinks=True)
        return Place(folder)


@contextmanager
def nothing_set() -> Iterator[None]:
    """Without settings in the environment; runs make no pictures, which would be a fifth of their work."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(SETTINGS):
                patch.delenv(name)
        patch.setenv("DATACUBE_PICTURES", "no")
        yield
