"""The process of one run: what the launcher starts.

    python -m datacube_assets.orchestration.run_worker ARGUMENTS

Does what `dagster api execute_run` does, which imports everything that Dagster's command line could need.
And it ends itself when somebody asks for that who cannot see this process, such as a webserver in another
container.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time

from datacube_assets.orchestration.startup import importing, keep_memory

DEFINITIONS = "datacube_assets.definitions"
"""A text, since what is wired there lies above this package."""


LOOK_SECONDS = 3.0
"""Between looks at whether the run is to be canceled; terminating it takes at most this and the interrupt."""


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
    threading.Thread(target=end_when_canceled, args=(sys.argv[1],), daemon=True).start()
    execute_run_command.main(args=sys.argv[1:], prog_name="execute_run")


def end_when_canceled(arguments: str) -> None:
    """Interrupt this process once its run is to be canceled."""
    from dagster import DagsterInstance, DagsterRunStatus
    from dagster._grpc.types import ExecuteRunArgs
    from dagster._serdes import deserialize_value

    asked = deserialize_value(arguments, ExecuteRunArgs)
    time.sleep(LOOK_SECONDS)
    if asked.instance_ref is None:
        return
    with DagsterInstance.from_ref(asked.instance_ref) as instance:
        while True:
            # Storage that is away for a moment is for the run itself to find.
            with contextlib.suppress(Exception):
                run = instance.get_run_by_id(asked.run_id)
                if run is not None and run.status == DagsterRunStatus.CANCELING:
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
            time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
