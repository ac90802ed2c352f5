"""The `datacube` command.

Reading arguments and telling people what happened belong here; what a command does is elsewhere. Commands
are in the modules of this package, by what they are for. Dagster is imported only by the commands that need
it, so that `--help` is quick.
"""

from __future__ import annotations

import click

from datacube_assets import __version__
from datacube_assets.cli.check import check
from datacube_assets.cli.environments import compare, export, import_, sync
from datacube_assets.cli.explain import explain
from datacube_assets.cli.inspect import inspect, list_, status, verify
from datacube_assets.cli.operate import copy, gc, reprocess, withdraw
from datacube_assets.cli.publish import demo, publish
from datacube_assets.cli.serve import causemos_simulator, dev, dojo_simulator, gateway, s3, view
from datacube_assets.cli.versions import diff, history, rollback
from datacube_assets.orchestration.startup import keep_memory
from datacube_assets.redaction import redacting


class _Gate(click.Group):
    """Commands whose errors say no more than may be shown."""

    def invoke(self, ctx: click.Context) -> object:
        with redacting():
            return super().invoke(ctx)


@click.group(cls=_Gate, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Turn model output from Dojo into the datacubes that CauseMos shows.

    \b
    Begin with
      datacube demo                     process a small sample, see what comes out
      datacube check PART...            what would publishing files of your own say?
      datacube publish PART... --help   process them
      datacube view                     look at what is published, on a map
      datacube dev                      the Dagster UI, beside simulators of Dojo and CauseMos
      datacube status                   is everything well? docs/operating.md has what to do
    """
    keep_memory()


for _command in (
    check,
    publish,
    demo,
    dev,
    view,
    gateway,
    status,
    list_,
    reprocess,
    inspect,
    explain,
    history,
    diff,
    rollback,
    verify,
    copy,
    export,
    import_,
    sync,
    compare,
    gc,
    withdraw,
    s3,
    dojo_simulator,
    causemos_simulator,
):
    main.add_command(_command)
