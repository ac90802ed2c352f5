"""The process of one run: what the launcher starts.

    python -m datacube_assets.orchestration.run_worker ARGUMENTS

Does what `dagster api execute_run` does, which imports everything that Dagster's command line could need.
"""

from __future__ import annotations

import contextlib
import importlib
import sys

from datacube_assets.orchestration.startup import importing, keep_memory

DEFINITIONS = "datacube_assets.definitions"
"""A text, since what is wired there lies above this package."""


def main() -> None:
    keep_memory()
    with importing():
        from dagster._cli.api import execute_run_command

        # What is wrong with the definitions is for Dagster to find and to report, when it loads them.
        with contextlib.suppress(Exception):
            # Arrow imports pandas anyway, at its first array.
            import pandas  # noqa: F401

            importlib.import_module(DEFINITIONS)

            from datacube_assets.orchestration.terminal_log import shorten

            shorten()
    execute_run_command.main(args=sys.argv[1:], prog_name="execute_run")


if __name__ == "__main__":
    main()
