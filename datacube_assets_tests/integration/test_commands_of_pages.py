"""Every command that a page names is executed, or is in the list of those that cannot be executed here.

The quick tests hold the pages to the two tables below and to the command's own parser; the slow ones execute
what the pages say, in a folder like a checkout, and look at what came of it. Where a page names a port, a
host, a bucket or an id for example, another one takes its place. The commands of README.md and of the
tour are executed by `test_documentation.py`, where they need nothing that is slow.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance

from benchmarks.__main__ import COMMANDS as BENCHMARKS
from datacube_assets.cli import main
from datacube_assets.development.ports import free_port, free_ports
from datacube_assets.development.s3_server import BUCKETS, S3Server
from datacube_assets_tests.integration import test_containers, test_documentation, test_stack
from datacube_assets_tests.integration.commands import (
    PAGES,
    README,
    ROOT,
    TOUR,
    answers,
    fenced_commands,
    inline_commands,
    make_checkout,
    nothing_set,
    run,
    running,
)
from datacube_assets_tests.integration.support import rows
from datacube_assets_tests.integration.system import wait_for

CONTRIBUTING, DASK, GATEWAY = "docs/contributing.md", "docs/dask.md", "docs/gateway.md"
CHECK, DEPENDENCIES, EXPLAIN = "docs/check.md", "docs/dependencies.md", "docs/explain.md"
HISTORY = "docs/history.md"
DOJO, GUARANTEES, LAKE = "docs/dojo-to-causemos.md", "docs/guarantees.md", "docs/lake.md"
OPERATING, S3, SECURITY = "docs/operating.md", "docs/s3.md", "docs/security.md"
SETTINGS, TORTOISE, VIEW = "docs/settings.md", "docs/coming-from-slow-tortoise.md", "docs/view.md"
INFRA = "infra/README.md"

_ENQUEUE = (
    "curl -X PUT http://127.0.0.1:4040/data-pipeline/enqueue "
    '-d \'{"model_id": "toy-crop-model", "run_id": "rainfall-low", "doc_ids": ["rainfall-low"], '
    '"qualifier_map": {"yield": ["crop"]}, "data_paths": '
    '["http://127.0.0.1:3001/files/rainfall-low_toy-crop-model.1.parquet.gzip"]}\''
)
_OF_POSTGRES = (
    'PGPASSWORD="$DAGSTER_POSTGRES_PASSWORD" {} -h "$DAGSTER_POSTGRES_HOST" -p "$DAGSTER_POSTGRES_PORT" '
    '-U "$DAGSTER_POSTGRES_USER" "$DAGSTER_POSTGRES_DB" {} dagster.sql'
)
_RESTORED = "`test_restore.py` does it, where Postgres is there"
_README = "test_commands_of_the_readme_do_what_it_says"
_TOUR = "test_the_tour_can_be_taken"
_CHECKS = "test_the_commands_for_contributors_do_what_they_say"
_CLUSTER = "test_a_cluster_of_this_machine_is_used_by_what_is_told_its_address"
_BY_HAND = "test_what_is_asked_for_by_hand_waits_and_is_processed"
_BACKFILL = "test_a_backfill_is_launched_at_the_command_line"
_SIMULATORS = "test_the_simulators_do_as_they_are_told"
_FUZZ = "test_random_input_is_tried_for_as_long_as_one_likes"
_LEFT = "test_what_dead_runs_leave_is_told_and_then_deleted"
_CHECK = "test_files_are_checked_before_they_are_published"
_EXPLAIN = "test_a_number_is_explained"
_HISTORY = "test_versions_are_listed_compared_and_brought_back"
_LOOK = "test_a_datacube_can_be_looked_into"
_BETWEEN = "test_environments_are_compared_and_a_datacube_goes_from_one_to_another"
_S3 = "test_lake_and_buckets_are_on_s3_where_the_variables_say_so"
_MAP = "test_the_map_is_served"
_MAP_S3 = "test_buckets_on_s3_are_compared_copied_and_shown"
_OF_STACK = "test_a_request_over_http_ends_as_a_datacube_that_causemos_is_told_of"
_COMPOSE = "test_the_settings_of_compose_are_put_where_only_their_owner_reads_them"
_GATEWAY = "test_a_gateway_for_other_machines_answers_only_those_that_are_named"

EXECUTED: Mapping[str, Mapping[str, str]] = {
    README: {
        "make demo": _README,
        "make test": _CHECKS,
        ".venv/bin/datacube publish PART... --model-id ID --run-id ID": _BETWEEN,
        ".venv/bin/datacube publish datacube-home/sample/files/rainfall-low_toy-crop-model.*.parquet.gzip "
        '--model-id my-model --run-id first --qualifier-map \'{"yield": ["crop"]}\'': _README,
        ".venv/bin/datacube publish datacube-home/sample/files/toy-market-prices.parquet.gzip "
        '--model-id my-prices --indicator --qualifier-map \'{"price": ["market"]}\' '
        "--weight-column population": _README,
    },
    TOUR: {
        "make demo": _README,
        "head -3 datacube-home/buckets/models/toy-crop-model/rainfall-low/month/yield/timeseries/global/"
        "global.csv": _README,
        "make view": _MAP,
        "make dev": _TOUR,
        "curl -X POST http://127.0.0.1:3001/simulator/runs/rainfall-high/finish": _TOUR,
    },
    CONTRIBUTING: {
        "make lint types test": _CHECKS,
        "make bench": _CHECKS,
        'make bench ARGS="--rows 1000 10000 --repeat 2"': _CHECKS,
        'make bench ARGS="--rows 10000 --folder /dev/shm"': _CHECKS,
        'make bench ARGS="peer --floods PATH/floods.parquet.gzip"': _CHECKS,
        'make bench ARGS="peer --rows 100000 --repeat 1 --compare"': _CHECKS,
    },
    DASK: {
        "make cluster": _CLUSTER,
        'make cluster ARGS="--workers 4 --port 8786 --dashboard-port 8787"': _CLUSTER,
        "export DATACUBE_DASK_SCHEDULER=tcp://127.0.0.1:8786": _CLUSTER,
    },
    DOJO: {
        "datacube reprocess MODEL_ID:RUN_ID...": _BY_HAND,
        "DAGSTER_HOME=$PWD/datacube-home/dagster .venv/bin/dagster job backfill -w workspace.yaml "
        "-j process_model_run --partitions toy-crop-model:rainfall-low,toy-crop-model:rainfall-normal "
        "--noprompt": _BACKFILL,
        "curl -X POST http://127.0.0.1:3001/simulator/runs/rainfall-high/finish": _SIMULATORS,
        "curl -X POST http://127.0.0.1:3001/simulator/runs/rainfall-low/fail": _SIMULATORS,
        "curl -X PUT http://127.0.0.1:3002/simulator/switches "
        '-d \'{"error_next": 3, "error_status": 500}\'': _SIMULATORS,
    },
    CHECK: {
        ".venv/bin/datacube check datacube-home/sample/files/rainfall-low_toy-crop-model.*.parquet.gzip "
        '--qualifier-map \'{"yield": ["crop"]}\'': _CHECK,
        ".venv/bin/datacube check datacube-home/sample/files/toy-market-prices.parquet.gzip --indicator "
        '--qualifier-map \'{"price": ["market"]}\' --weight-column population --html report.html': _CHECK,
        ".venv/bin/datacube check datacube-home/sample/files/rainfall-low_toy-crop-model.*.parquet.gzip "
        "--json --strict > check.json": _CHECK,
    },
    EXPLAIN: {
        ".venv/bin/datacube explain toy-crop-model:rainfall-low --feature yield --time 2020-01 "
        "--region Kenya__Nakuru --figure s_mean_t_mean": _EXPLAIN,
        ".venv/bin/datacube explain toy-crop-model:rainfall-low --feature yield --time 2020 --csv rows.csv": (
            _EXPLAIN
        ),
        ".venv/bin/datacube explain toy-crop-model:rainfall-low --feature yield --time 2020 --json "
        "> why.json": _EXPLAIN,
    },
    GATEWAY: {
        "export DATACUBE_GATEWAY_CLIENTS=10.1.0.0/16": _GATEWAY,
        "datacube gateway --host 0.0.0.0 --port 4040": _GATEWAY,
        "curl http://GATEWAY:4040/data-pipeline/status": _GATEWAY,
    },
    GUARANTEES: {
        'make test ARGS="-m slow datacube_assets_tests/integration/test_crashes.py"': _CHECKS,
        'make test ARGS="-m slow datacube_assets_tests/integration/test_sequences.py"': _CHECKS,
        'make test ARGS="-m slow -n 0 datacube_assets_tests/integration/test_faults.py"': _CHECKS,
        'make test ARGS="-m slow -n 0 datacube_assets_tests/integration/test_leases.py"': _CHECKS,
        'make fuzz ARGS="--minutes 5"': _FUZZ,
        'make fuzz ARGS="--minutes 5 --target bytes"': _FUZZ,
    },
    HISTORY: {
        ".venv/bin/datacube publish "
        "datacube-home/sample/files/rainfall-high_toy-crop-model.*.parquet.gzip "
        "--model-id toy-crop-model --run-id rainfall-low "
        '--qualifier-map \'{"yield": ["crop"]}\'': _HISTORY,
        ".venv/bin/datacube history toy-crop-model:rainfall-low": _HISTORY,
        ".venv/bin/datacube diff toy-crop-model:rainfall-low@1 toy-crop-model:rainfall-low": _HISTORY,
        ".venv/bin/datacube diff toy-crop-model:rainfall-low toy-crop-model:rainfall-high --json": _HISTORY,
        ".venv/bin/datacube rollback toy-crop-model:rainfall-low --yes": _HISTORY,
        ".venv/bin/datacube rollback toy-crop-model:rainfall-low --to 2 --yes": _HISTORY,
    },
    LAKE: {
        ".venv/bin/datacube gc": _LEFT,
        ".venv/bin/datacube gc --delete --older-than 2d": _LEFT,
    },
    OPERATING: {
        "datacube inspect KEY": _LOOK,
        "datacube inspect KEY --table grid_cells": _LOOK,
        "datacube inspect KEY --manifest spatial_tiles": _LOOK,
        "datacube inspect KEY --object month/F/tiles/1577836800000-0-0-0.tile --bins": _LOOK,
        "datacube inspect some/where/1577836800000-0-0-0.tile": _LOOK,
        "datacube inspect s3://models/M/R/results/results.json": _MAP_S3,
        "datacube sync production.env staging.env": _BETWEEN,
        "datacube sync https://dojo.example/api/dojo .": _TOUR,
        "datacube sync s3://causemos-prod-modeler-models s3://new-models": _MAP_S3,
    },
    TORTOISE: {
        "datacube compare s3://shadow-models s3://causemos-prod-modeler-models": _MAP_S3,
        "datacube compare s3://shadow-indicators s3://causemos-prod-modeler-indicators --json "
        "> indicators.json": _MAP_S3,
    },
    S3: {
        "export DATACUBE_LAKE=s3://my-lake/datacubes": _S3,
        "export DATACUBE_MODELS_BUCKET=s3://my-models": _S3,
        "export DATACUBE_INDICATORS_BUCKET=s3://my-indicators": _S3,
        "export AWS_REGION=us-east-1": _S3,
        "export DATACUBE_S3_ENDPOINT=https://s3.example.org": _S3,
        "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...": _S3,
        "datacube copy locusts:run-1 locusts:run-2 --to s3://other-models": _S3,
    },
    SETTINGS: {
        "export DATACUBE_LAKE=s3://my-lake/datacubes": _S3,
        "export DATACUBE_MODELS_BUCKET=s3://my-models": _S3,
        "export DATACUBE_INDICATORS_BUCKET=s3://my-indicators": _S3,
        "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... AWS_REGION=us-east-1": _S3,
    },
    VIEW: {
        "make view": _MAP,
        ".venv/bin/datacube view --models-bucket s3://models --indicators-bucket s3://indicators": _MAP_S3,
    },
    INFRA: {
        _ENQUEUE: _OF_STACK,
        "source datacube-home/stack/environment": _OF_STACK,
        ".venv/bin/datacube status": _OF_STACK,
        ".venv/bin/datacube list": _OF_STACK,
        "curl -X PUT http://GATEWAY:4040/data-pipeline/stop": _BY_HAND,
        "curl -X PUT http://GATEWAY:4040/data-pipeline/start": _BY_HAND,
        "curl http://GATEWAY:4040/healthz": _BY_HAND,
        "curl http://GATEWAY:4040/metrics | grep datacube_requests": _BY_HAND,
        "cd infra/compose": _COMPOSE,
        "install -m 600 env.example .env": _COMPOSE,
    },
}
"""By page: each command of its blocks, and the test that executes it."""

_DOCKER = "needs Docker; `test_infra.py` holds the files to each other, `test_stack.py` starts the same"
_CLUSTER_OF_OTHERS = "needs a Kubernetes cluster; `test_infra.py` holds the manifests to their schemas"
NOT_EXECUTED: Mapping[str, Mapping[str, str]] = {
    GATEWAY: {
        "curl -X PUT http://GATEWAY:4040/data-pipeline/enqueue "
        "-H 'Content-Type: application/json' -d @request.json": "names a file of nowhere; "
        "`test_gateway_process.py` puts such requests in",
    },
    DEPENDENCIES: {
        "make wheels": "asks the Python Package Index; `test_pythons.py` has what it makes of answers",
    },
    SECURITY: {
        "export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt": "needs a host whose certificate the file "
        "of this system vouches for; `test_tls.py` sets it to an authority of its own",
        "make audit": "asks the Python Package Index; `test_infra.py` has what it makes of answers",
    },
    INFRA: {
        "make postgres": "installs a package, as root",
        "make stack": "needs that; `test_stack.py` starts it where Postgres is there",
        "docker compose --profile simulators up --build --detach": _DOCKER,
        "docker build -f infra/Dockerfile -t registry.example.org/datacube-assets:VERSION .": _DOCKER,
        "docker push registry.example.org/datacube-assets:VERSION": _DOCKER,
        "docker compose up --detach code dask-scheduler dask-worker && docker compose up --detach": _DOCKER,
        "docker compose ps": _DOCKER,
        "docker compose exec gateway datacube status": _DOCKER,
        _ENQUEUE.replace(
            "127.0.0.1:3001", "dojo:3001"
        ): "`test_containers.py` sends it, where there are containers",
        _OF_POSTGRES.format("pg_dump --no-owner", ">"): _RESTORED,
        _OF_POSTGRES.format("psql -v ON_ERROR_STOP=1", "<"): _RESTORED,
        'for bucket in lake models indicators logs; do aws s3 sync "s3://$bucket" "$bucket"; done': _RESTORED,
        "docker build -f infra/Dockerfile -t datacube-assets:dev .": _DOCKER,
        "kind load docker-image datacube-assets:dev": _CLUSTER_OF_OTHERS,
        "kubectl apply -k infra/kubernetes/local": _CLUSTER_OF_OTHERS,
        "kubectl -n datacube-local rollout status deployment --timeout=10m": _CLUSTER_OF_OTHERS,
        "kubectl -n datacube-local port-forward service/webserver 3000": _CLUSTER_OF_OTHERS,
        "kubectl -n datacube-local port-forward service/gateway 4040": _CLUSTER_OF_OTHERS,
        "kubectl -n datacube-local port-forward service/causemos 3002": _CLUSTER_OF_OTHERS,
        "kubectl -n datacube-local port-forward service/view 3003": _CLUSTER_OF_OTHERS,
        'make test ARGS="-m slow -n 0 datacube_assets_tests/integration/test_containers.py"': "a test",
        "kubectl create namespace datacube": _CLUSTER_OF_OTHERS,
        "kubectl -n datacube create secret generic datacube --from-env-file=SECRETS": _CLUSTER_OF_OTHERS,
        "kubectl apply -k infra/kubernetes/production": _CLUSTER_OF_OTHERS,
        "kubectl -n datacube rollout status deployment --timeout=10m": _CLUSTER_OF_OTHERS,
    },
}
"""By page: each command of its blocks that cannot be executed here, and why not."""


# --- what the pages say ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_executed_or_has_a_reason_not_to_be(page: str) -> None:
    executed, excused = EXECUTED.get(page, {}), NOT_EXECUTED.get(page, {})
    assert not executed.keys() & excused.keys()
    there = set(fenced_commands(page))
    unknown = sorted(there - executed.keys() - excused.keys())
    assert not unknown, "no test executes these, and no reason is given in NOT_EXECUTED"
    gone = sorted((executed.keys() | excused.keys()) - there)
    assert not gone, "these are on the page no more"
    for test in executed.values():
        modules = (test_containers, test_documentation, test_stack)
        known = test in globals() or any(hasattr(module, test) for module in modules)
        assert known, f"there is no test {test}"


def test_a_command_that_nobody_executes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    page, (first, *_) = DASK, EXECUTED[DASK]
    monkeypatch.setitem(EXECUTED, page, {**EXECUTED[page], "make nothing": _CLUSTER})
    with pytest.raises(AssertionError, match="make nothing"):
        test_every_command_of_a_page_is_executed_or_has_a_reason_not_to_be(page)
    monkeypatch.setitem(EXECUTED, page, {one: _CLUSTER for one in fenced_commands(page) if one != first})
    with pytest.raises(AssertionError, match=first):
        test_every_command_of_a_page_is_executed_or_has_a_reason_not_to_be(page)


def parsed(command: str) -> None:
    """Hold a command line to the command's own parser. Raises click.UsageError for what it does not know.

    Values are not looked at: pages say ID and KEY.
    """
    words = [word.strip("[]") for word in shlex.split(command)]
    if ">" in words:
        words = words[: words.index(">")]
    _, name, *arguments = words
    context = click.Context(main)
    subcommand = main.get_command(context, name)
    if subcommand is None:
        raise click.UsageError(f"there is no datacube {name}")
    subcommand.make_parser(click.Context(subcommand, info_name=name)).parse_args(arguments)


def of_the_command(text: str) -> Iterator[str]:
    """The parts of a command line that call `datacube`."""
    for part in re.split(r"(?<!\S)(?:\||&&|;)(?!\S)", text):
        start = re.match(r"(?:[A-Z_]+=\S* )*(?:\S*/)?(?=datacube [a-z])", part.strip())
        if start:
            yield part.strip()[start.end() :]


def test_every_option_of_the_command_that_a_page_names_is_known_to_it() -> None:
    looked_at = 0
    for page in PAGES:
        for command in fenced_commands(page) + inline_commands(page) + continued(page):
            for one in of_the_command(command):
                looked_at += 1
                try:
                    parsed(one)
                except (click.UsageError, ValueError) as error:
                    raise AssertionError(f"{page}: {one}: {error}") from error
    assert looked_at > 100


def continued(page: str) -> list[str]:
    """What `datacube list --state READY`, `--failed` means: the second is an option of the same command."""
    found = re.finditer(
        r"`datacube ([a-z-]+)[^`]*`((?:,? (?:or |and )?`--[^`]+`)+)", (ROOT / page).read_text()
    )
    return [f"datacube {one[1]} {option}" for one in found for option in re.findall(r"`(--[^`]+)`", one[2])]


@pytest.mark.parametrize(
    "command", ["datacube lost KEY", "datacube list --lost", "datacube copy KEY --to", "datacube gc --keys"]
)
def test_an_option_that_the_command_does_not_know_is_found(command: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(command)


def test_every_target_that_a_page_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for command in fenced_commands(page) + inline_commands(page):
            program, *words = shlex.split(command)
            if program == "make":
                named = {word for word in words if re.fullmatch(r"[a-z0-9-]+", word)}
                assert named, f"{page}: {command} names no target"
                assert named <= targets, f"{page}: {command}: there is no target {named - targets}"


def test_every_benchmark_that_a_page_names_is_one() -> None:
    for page in PAGES:
        for name in re.findall(r"python -m benchmarks ([a-z0-9]+)", (ROOT / page).read_text()):
            assert name in BENCHMARKS, f"{page}: there is no benchmark {name}"


# --- executing them --------------------------------------------------------------------------------

Said = Callable[[str, str], str]


@pytest.fixture
def said(request: pytest.FixtureRequest) -> Iterator[Said]:
    """Gives the command of a page that is, or begins, like this; holds the test to the table above."""
    test, failures = request.node.originalname, request.session.testsfailed
    asked: set[tuple[str, str]] = set()

    def command(page: str, start: str) -> str:
        known = list(dict.fromkeys(fenced_commands(page) + inline_commands(page)))
        found = [one for one in known if one == start] or [one for one in known if one.startswith(start)]
        assert len(found) == 1, f"{page} has {found}"
        asked.add((page, found[0]))
        return found[0]

    yield command
    declared = {
        (page, command)
        for page, commands in EXECUTED.items()
        for command, name in commands.items()
        if name == test
    }
    if request.session.testsfailed == failures:
        assert declared <= asked, f"the table says that this test executes {declared - asked}"


def put(command: str, **others: str) -> str:
    """A command with something else in the place of names that stand for it."""
    for name, other in others.items():
        assert name in command, f"{command} has no {name}"
        command = command.replace(name, other)
    return command


def at_port(command: str, port: int, was: str) -> str:
    """A command for another port, on this machine."""
    assert was in command
    return command.replace("GATEWAY", "127.0.0.1").replace(was, str(port))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def environment(checkout: Path) -> dict[str, str]:
    return nothing_set(checkout)


@pytest.fixture(scope="module")
def demo(checkout: Path, environment: dict[str, str]) -> Path:
    """The checkout after `make demo`."""
    run("make demo", checkout, environment)
    return checkout


KEY = "toy-crop-model:rainfall-low"
HIGH, NORMAL = "toy-crop-model:rainfall-high", "toy-crop-model:rainfall-normal"
PRICES = "toy-market-prices:indicator"
RUNS = [HIGH, KEY, NORMAL]


@pytest.mark.slow
def test_the_commands_for_contributors_do_what_they_say(
    said: Said, checkout: Path, environment: dict[str, str]
) -> None:
    checks = run(f"{said(CONTRIBUTING, 'make lint types test')} -n", checkout, environment)
    for tool in (".venv/bin/ruff check", ".venv/bin/ruff format --check", ".venv/bin/mypy", "-m pytest"):
        assert tool in checks
    assert run(f"{said(README, 'make test')} -n", checkout, environment).strip() in checks
    assert "-m benchmarks" in run(f"{said(CONTRIBUTING, 'make bench')} -n", checkout, environment)
    for page, start, expected in (
        (GUARANTEES, 'make test ARGS="-m slow datacube', "test_a_run_that_dies_at_any_moment_is_made_good"),
        (
            GUARANTEES,
            'make test ARGS="-m slow -n 0 datacube_assets_tests/integration/test_faults.py"',
            "test_runs_while_faults_are_injected_are_published",
        ),
        (
            GUARANTEES,
            'make test ARGS="-m slow -n 0 datacube_assets_tests/integration/test_leases.py"',
            "test_in_whatever_order_homes_move_sleep_and_die",
        ),
        (CONTRIBUTING, 'make test ARGS="-k tiles -x"', "tiles"),
    ):
        command = said(page, start).removesuffix('"') + ' --collect-only -q -p no:cacheprovider"'
        assert expected in run(command, checkout, environment)
    # Smaller sizes than the page has them: what is measured means nothing here.
    several = put(
        said(CONTRIBUTING, 'make bench ARGS="--rows 1000 '), **{"1000 10000 --repeat 2": "500 1000"}
    )
    figures = run(several, checkout, environment)
    assert "wall / floor" in figures
    assert "0 objects published" in figures, "the same again publishes nothing"
    in_memory = said(CONTRIBUTING, 'make bench ARGS="--rows 10000 --folder')
    assert "-m benchmarks --rows 10000 --folder /dev/shm" in run(f"{in_memory} -n", checkout, environment)
    floods = said(CONTRIBUTING, 'make bench ARGS="peer --floods')
    assert "-m benchmarks peer --floods PATH/" in run(f"{floods} -n", checkout, environment)
    pair = put(said(CONTRIBUTING, 'make bench ARGS="peer --rows'), **{"100000": "1000"})
    assert "beyond" in run(pair, checkout, environment)


@pytest.mark.slow
def test_random_input_is_tried_for_as_long_as_one_likes(
    said: Said, checkout: Path, environment: dict[str, str]
) -> None:
    # What is tried is another thing each time: if something is found, the command says so and fails.
    briefly = put(said(GUARANTEES, 'make fuzz ARGS="--minutes 5"'), **{" 5": " 0.05"})
    every = run(f"{briefly} || echo failed", checkout, environment)
    found = re.findall(r"^(\w+): [\d,]+ examples, (none|one of them) broken", every, re.MULTILINE)
    assert [name for name, _ in found] == ["tables", "bytes", "documents", "requests"], every
    assert every.endswith("failed\n") == any(broken != "none" for _, broken in found), every
    one = put(said(GUARANTEES, 'make fuzz ARGS="--minutes 5 --target'), **{" 5": " 0.02"})
    told = run(one, checkout, environment)
    assert "bytes: " in told
    assert "tables" not in told


@pytest.mark.slow
def test_a_number_is_explained(said: Said, demo: Path, environment: dict[str, str]) -> None:
    asked = ".venv/bin/datacube explain toy-crop-model:rainfall-low --feature yield --time "
    told = run(said(EXPLAIN, asked + "2020-01"), demo, environment)
    assert "s_mean_t_mean = s_sum_t_mean / s_count = 12.565 / 9" in told
    run(said(EXPLAIN, asked + "2020 --csv"), demo, environment)
    lines = (demo / "rows.csv").read_text().splitlines()
    run(said(EXPLAIN, asked + "2020 --json"), demo, environment)
    rows_told = json.loads((demo / "why.json").read_text())["rows"]
    assert len(rows_told) == len(lines) - 1 > 1000


@pytest.mark.slow
def test_files_are_checked_before_they_are_published(
    said: Said, demo: Path, environment: dict[str, str]
) -> None:
    crops = ".venv/bin/datacube check datacube-home/sample/files/rainfall-low_toy-crop-model.*.parquet.gzip "
    told = run(said(CHECK, crops + "--qualifier-map"), demo, environment)
    assert "model:check: fine" in told
    assert "the request maps it to yield" in told
    run(said(CHECK, ".venv/bin/datacube check datacube-home/sample/files/toy-market"), demo, environment)
    page = (demo / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3, "there are no coordinates, and no map"
    run(said(CHECK, crops + "--json"), demo, environment)
    document = json.loads((demo / "check.json").read_text())
    assert document["errors"] == document["warnings"] == []
    assert document["rows"] == document["rows_kept"] > 1000
    published = (demo / "datacube-home/buckets/models/toy-crop-model/rainfall-low").rglob("*")
    # Without the qualifier map, nothing is broken down.
    assert 0 < document["objects"]["all"] < sum(path.is_file() for path in published)


@pytest.mark.slow
def test_versions_are_listed_compared_and_brought_back(
    said: Said, demo: Path, environment: dict[str, str]
) -> None:
    told = run(said(HISTORY, ".venv/bin/datacube publish"), demo, environment)
    assert "regions_stay_as_they_were" in told
    older, newer = run(said(HISTORY, ".venv/bin/datacube history"), demo, environment).splitlines()
    assert (older.split()[:2], newer.split()[:2]) == (["replaced", "1"], ["published", "2"])
    diff = ".venv/bin/datacube diff toy-crop-model:rainfall-low"
    assert "figures changed" in run(said(HISTORY, f"{diff}@1"), demo, environment)
    assert json.loads(run(said(HISTORY, f"{diff} "), demo, environment))["figures"]["changed"] == 0
    back = ".venv/bin/datacube rollback toy-crop-model:rainfall-low --"
    assert "version 1 again" in run(said(HISTORY, f"{back}yes"), demo, environment)
    assert "version 2 again" in run(said(HISTORY, f"{back}to"), demo, environment)


@pytest.mark.slow
def test_the_settings_of_compose_are_put_where_only_their_owner_reads_them(
    said: Said, tmp_path: Path, environment: dict[str, str]
) -> None:
    shutil.copytree(ROOT / "infra", tmp_path / "infra", ignore=shutil.ignore_patterns(".env"))
    run(f"{said(INFRA, 'cd infra/compose')}\n{said(INFRA, 'install -m 600')}", tmp_path, environment)
    made = tmp_path / "infra" / "compose" / ".env"
    assert made.stat().st_mode & 0o777 == 0o600
    assert "POSTGRES" in made.read_text()


@pytest.mark.slow
def test_a_cluster_of_this_machine_is_used_by_what_is_told_its_address(
    said: Said, checkout: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    # The usual ports may be in use: any free ones.
    plain = said(DASK, "make cluster")
    with running(
        f'{plain} ARGS="--port 0 --dashboard-port 0"', checkout, environment, tmp_path / "plain"
    ) as cluster:
        assert f"Workers     {os.cpu_count()} processes" in cluster.wait("Stop everything with Ctrl-C.")
    scheduler, dashboard = map(str, free_ports(2))
    command = said(DASK, "make cluster ARGS=").replace("8786", scheduler).replace("8787", dashboard)
    with running(command, checkout, environment, tmp_path / "cluster") as cluster:
        shown = cluster.wait("Stop everything with Ctrl-C.")
        expected = answers(DASK, "Scheduler").replace("8786", scheduler).replace("8787", dashboard)
        assert shown.startswith(expected)
        assert httpx.get(f"http://127.0.0.1:{dashboard}/status").is_success
        export = said(DASK, "export DATACUBE_DASK_SCHEDULER").replace("8786", scheduler)
        assert export in shown
        pq.write_table(rows(), tmp_path / "rain.parquet")
        published = run(
            f"{export}\ndatacube publish {tmp_path}/rain.parquet --model-id on-dask --run-id one",
            checkout,
            environment,
        )
        assert re.search(r"(\d+) objects, .*: \1 written", published)
    with DagsterInstance.from_config(str(checkout / "datacube-home" / "dagster")) as instance:
        (one,) = [found for found in instance.get_runs() if found.tags["datacube/model"] == "on-dask"]
        assert one.tags["datacube/dask_dashboard"] == f"http://127.0.0.1:{dashboard}/status"
    # Nobody is there any more, and who is told to use it says so.
    refused = (
        f"{export}\ndatacube publish {tmp_path}/rain.parquet --model-id on-dask --run-id one --quiet 2>&1"
    )
    assert "DATACUBE_DASK_SCHEDULER" in run(refused, checkout, environment, status=1)


# --- a home folder ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_map_is_served(said: Said, demo: Path, environment: dict[str, str], tmp_path: Path) -> None:
    command, port = said(VIEW, "make view"), free_port()
    assert command == said(TOUR, "make view")
    with running(f'{command} ARGS="--port {port}"', demo, environment, tmp_path / "view") as view:
        view.wait(f"http://127.0.0.1:{port}")
        page = wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/"), "the page")
        assert "<title>" in page.text
        shown = httpx.get(f"http://127.0.0.1:{port}/api/runs").text
        assert all(run_id in shown for run_id in ("rainfall-low", "rainfall-high", "toy-market-prices"))


@pytest.mark.slow
def test_a_datacube_can_be_looked_into(said: Said, demo: Path, environment: dict[str, str]) -> None:
    def told(start: str, **names: str) -> str:
        return run(put(said(OPERATING, start), **names), demo, environment)

    health = told("datacube inspect KEY", KEY=KEY)
    assert re.search(r"^state +well$", health, re.MULTILINE)
    assert "results.json" in health
    assert "quadkey" in told("datacube inspect KEY --table", KEY=KEY)
    assert "1577836800000-0-0-0.tile" in told("datacube inspect KEY --manifest", KEY=KEY)
    bins = told("datacube inspect KEY --object", KEY=KEY, **{"/F/": "/yield/"})
    assert "lat=" in bins
    tile = "datacube-home/buckets/models/toy-crop-model/rainfall-low/month/yield/tiles"
    assert "zoom" in told("datacube inspect some/where", **{"some/where": tile})
    verified = told("datacube verify KEY", KEY=KEY)
    assert verified.startswith(f"well    {KEY}")
    everything = run("datacube verify --all --no-tables", demo, environment)
    assert all(f"well    {key}" in everything for key in (*RUNS, PRICES))
    of_a_model = run("datacube verify --model toy-crop-model --no-tables --quiet", demo, environment)
    assert not of_a_model


@pytest.mark.slow
def test_what_dead_runs_leave_is_told_and_then_deleted(
    said: Said, demo: Path, environment: dict[str, str]
) -> None:
    left = (
        demo / "datacube-home/lake/runs/toy-crop-model/rainfall-low/grid_cells/dead/month/default/x.parquet"
    )
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    told = run(said(LAKE, ".venv/bin/datacube gc"), demo, environment)
    assert re.search(r"^ +1 .* would be deleted; add --delete$", told, re.MULTILINE), told
    assert left.exists()
    told = run(said(LAKE, ".venv/bin/datacube gc --delete"), demo, environment)
    assert re.search(r"^ +1 .* deleted$", told, re.MULTILINE), told
    assert not left.exists()
    assert re.search(r"^ +0 ", run(said(OPERATING, "datacube gc --delete"), demo, environment), re.MULTILINE)


@pytest.mark.slow
def test_environments_are_compared_and_a_datacube_goes_from_one_to_another(
    said: Said, demo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    pq.write_table(rows(), tmp_path / "rain.parquet")
    publish = put(said(README, ".venv/bin/datacube publish PART"), **{"PART...": f"{tmp_path}/rain.parquet"})
    for home, run_id in ((here, "one"), (there, "one"), (there, "two")):
        published = run(
            put(publish, **{"--model-id ID": "--model-id toy", "--run-id ID": f"--run-id {run_id}"})
            + f" --home {home}",
            demo,
            environment,
        )
        assert f"Published  {home}/buckets/models/toy/{run_id}" in published
    (demo / "production.env").write_text(f"DATACUBE_HOME={there}\n")
    (demo / "staging.env").write_text(f"# an empty one would be this process' own\nDATACUBE_HOME={here}\n")
    shutil.copy(demo / "production.env", demo / "other.env")
    told = run(said(OPERATING, "datacube sync production.env staging.env"), demo, environment, status=1)
    assert re.search(r"missing.*: 1\n  toy:two\n", told), told

    elsewhere = {**environment, "DATACUBE_HOME": str(tmp_path / "elsewhere")}
    missing = run(said(OPERATING, "datacube sync other.env ."), demo, elsewhere, status=1)
    assert re.search(r"missing.*: 2\n  toy:one\n  toy:two\n", missing), missing
    asked = run(said(OPERATING, "datacube sync other.env . --process"), demo, elsewhere, status=1)
    assert asked.endswith("Asked for toy:one\nAsked for toy:two\n")

    at = {**environment, "DATACUBE_HOME": str(here)}
    exported = put(said(OPERATING, "datacube export KEY FILE"), KEY="toy:two", FILE="two.tar")
    assert "Exported  two.tar" in run(exported, demo, {**environment, "DATACUBE_HOME": str(there)})
    imported = run(put(said(OPERATING, "datacube import FILE"), FILE="two.tar"), demo, at)
    assert f"{here}/buckets/models/toy/two" in imported
    assert run("datacube sync production.env staging.env", demo, environment) == "Nothing differs.\n"
    compared = put(
        said(OPERATING, "datacube compare OURS THEIRS"),
        OURS=str(here / "buckets/models"),
        THEIRS=str(there / "buckets/models"),
    )
    assert "2 of 2 agree" in run(compared, demo, at)

    copied = put(said(OPERATING, "datacube copy KEY --to URL"), KEY="toy:one", URL=str(tmp_path / "bucket"))
    assert "0 stale deleted" in run(copied, demo, at)
    assert (tmp_path / "bucket/toy/one/results/results.json").is_file()


# --- S3 --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Far:
    """The S3 server of `make s3`."""

    server: S3Server
    environment: dict[str, str]
    """With the variables that it printed, but those that name lake and buckets."""

    def keys(self, bucket: str) -> list[str]:
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]


@pytest.fixture(scope="module")
def far(
    checkout: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Far]:
    port, folder = free_port(), tmp_path_factory.mktemp("s3")
    command = f'make s3 ARGS="--port {port} --home {folder}"'
    with running(command, checkout, environment, folder / "printed") as server:
        printed = server.wait("Stop it with Ctrl-C")
        exports = dict(re.findall(r"^export ([A-Z0-9_]+)=(.*)$", printed, re.MULTILINE))
        lake, models, indicators = (
            exports.pop(f"DATACUBE_{name}") for name in ("LAKE", "MODELS_BUCKET", "INDICATORS_BUCKET")
        )
        assert (lake, models, indicators) == tuple(f"s3://{bucket}" for bucket in BUCKETS)
        yield Far(
            S3Server(exports["DATACUBE_S3_ENDPOINT"], folder, server.process),
            {**environment, **exports},
        )


@pytest.mark.slow
def test_lake_and_buckets_are_on_s3_where_the_variables_say_so(
    said: Said, checkout: Path, environment: dict[str, str], far: Far, tmp_path: Path
) -> None:
    for bucket in ("my-lake", "my-models", "my-indicators", "other-models"):
        far.server.make_bucket(bucket)
    account = {"AWS_ACCESS_KEY_ID=...": "AWS_ACCESS_KEY_ID=datacube", "KEY=...": "KEY=datacube-secret"}
    places = [f"export DATACUBE_{name}" for name in ("LAKE", "MODELS_BUCKET", "INDICATORS_BUCKET")]
    exports = [said(S3, place) for place in places]
    assert exports == [said(SETTINGS, place) for place in places]
    exports += [
        said(S3, "export AWS_REGION"),
        put(said(S3, "export DATACUBE_S3_ENDPOINT"), **{"https://s3.example.org": far.server.endpoint}),
        put(said(S3, "export AWS_ACCESS_KEY_ID"), **account),
    ]
    assert put(said(SETTINGS, "export AWS_ACCESS_KEY_ID"), **account).startswith(exports[-1])
    setting = "\n".join(exports)
    pq.write_table(rows(), tmp_path / "rain.parquet")
    for run_id in ("run-1", "run-2"):
        publish = f"datacube publish {tmp_path}/rain.parquet --model-id locusts --run-id {run_id}"
        told = run(f"{setting}\n{publish}", checkout, environment)
        assert f"Published  s3://my-models/locusts/{run_id}/" in told
    assert all(key.startswith("datacubes/") for key in far.keys("my-lake"))
    told = run(f"{setting}\n{said(S3, 'datacube copy locusts')}", checkout, environment)
    assert re.search(r"^Copied  s3://other-models/locusts/run-2/", told, re.MULTILINE)
    assert far.keys("other-models") == far.keys("my-models")
    assert "locusts/run-1/results/results.json" in far.keys("other-models")


@pytest.mark.slow
def test_buckets_on_s3_are_compared_copied_and_shown(
    said: Said, checkout: Path, far: Far, tmp_path: Path
) -> None:
    pq.write_table(rows(), tmp_path / "rain.parquet")
    for bucket in ("causemos-prod-modeler-models", "causemos-prod-modeler-indicators", "new-models"):
        far.server.make_bucket(bucket)
    for bucket in ("shadow-models", "shadow-indicators"):
        far.server.make_bucket(bucket)
    for key, options, bucket in (
        ("M:R", "--model-id M --run-id R", "models"),
        ("D:indicator", "--model-id D --indicator", "indicators"),
    ):
        run(
            f"datacube publish {tmp_path}/rain.parquet {options} --home {tmp_path}/home "
            "--models-bucket s3://models --indicators-bucket s3://indicators",
            checkout,
            far.environment,
        )
        for target in (f"shadow-{bucket}", f"causemos-prod-modeler-{bucket}"):
            copy = f"datacube copy {key} --from s3://{bucket} --to s3://{target} --home {tmp_path}/home"
            run(copy, checkout, far.environment)
    results = run(said(OPERATING, "datacube inspect s3://models"), checkout, far.environment)
    assert "num_rows" in results
    assert "s_sum_t_sum=10.0" in results
    told = run(said(OPERATING, "datacube sync s3://"), checkout, far.environment, status=1)
    assert re.search(r"missing.*: 1\n  M:R\n", told), told
    at = {**far.environment, "DATACUBE_HOME": str(tmp_path / "home")}
    assert "1 of 1 agree" in run(said(TORTOISE, "datacube compare s3://shadow-models"), checkout, at)
    run(said(TORTOISE, "datacube compare s3://shadow-indicators"), checkout, at)
    compared = json.loads((checkout / "indicators.json").read_text())
    assert [(one["partition"], one["agrees"]) for one in compared["runs"]] == [("D:indicator", True)]

    port = free_port()
    command = f"{said(VIEW, '.venv/bin/datacube view --models')} --port {port}"
    with running(command, checkout, far.environment, tmp_path / "view") as view:
        view.wait("stop it with Ctrl-C")
        shown = wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/api/runs"), "the page").text
        assert '"M"' in shown
        assert '"D"' in shown


# --- the whole system ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dev:
    """`make dev` at work in the checkout."""

    folder: Path
    environment: dict[str, str]
    port: int

    def here(self, command: str) -> str:
        """A command with the ports that are used here in the place of 3000, 3001 and 3002."""
        assert re.search(r":300[0-2]/", command), command
        return re.sub(r":300([0-2])/", lambda found: f":{self.port + int(found[1])}/", command)

    def run(self, command: str, *, status: int = 0) -> str:
        return run(command, self.folder, self.environment, status=status)

    def told(self, words: str) -> None:
        """Wait until the page of CauseMos' simulator says so."""

        def there() -> bool:
            page = httpx.get(f"http://127.0.0.1:{self.port + 2}").text
            return words in re.sub(r"(<[^>]*>|\s)+", " ", page)

        wait_for(there, f"CauseMos to be told: {words}", 200)

    def partitions(self) -> dict[str, dict[str, Any]]:
        return {one["key"]: one for one in json.loads(self.run("datacube list --json"))}

    def ready(self, *keys: str) -> dict[str, dict[str, Any]]:
        """Wait until these are published, and no run is at work on them; returns what is known of them."""

        def known() -> dict[str, dict[str, Any]] | None:
            found = self.partitions()
            return found if all(key in found and found[key]["state"] == "READY" for key in keys) else None

        return wait_for(known, f"{', '.join(keys)} to be ready", 200)

    def graphql(self, query: str) -> Any:
        answer = httpx.post(f"http://127.0.0.1:{self.port}/graphql", json={"query": query}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]


@pytest.fixture(scope="module")
def dev(demo: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """What `make dev` starts, at other ports; two runs and a dataset are finished in Dojo."""
    port = free_ports(4)[0]
    quick = {**environment, "DATACUBE_SENSOR_INTERVAL": "2"}
    output = tmp_path_factory.mktemp("dev") / "printed"
    with running(f'make dev ARGS="--port {port}"', demo, quick, output) as system:
        system.wait("Stop everything with Ctrl-C")
        found = Dev(demo, environment, port)
        found.told("rainfall-low READY")
        found.told("rainfall-normal READY")
        yield found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tour_can_be_taken(said: Said, dev: Dev) -> None:
    assert said(TOUR, "make dev") == "make dev"
    wait_for(lambda: httpx.get(f"http://127.0.0.1:{dev.port}").is_success, "the UI")
    dev.run(dev.here(said(TOUR, "curl -X POST")))
    dev.told("rainfall-high READY")
    dev.ready(*RUNS, PRICES)
    for key in (*RUNS, PRICES):
        assert f"READY {key}" in re.sub(r" .* ", " ", dev.run(said(OPERATING, "datacube list")))
    assert dev.run(said(OPERATING, "datacube list --failed")) == ""
    status = said(OPERATING, "datacube status")
    well = wait_for(
        lambda: "broken" not in (told := dev.run(f"{status} || true")) and "warning" not in told and told,
        "everything to be well",
    )
    for part in ("lake", "daemon", "sensors", "partitions", "code"):
        assert re.search(rf"^well +{part} ", str(well), re.MULTILINE), well
    figures = json.loads(dev.run(said(OPERATING, "datacube status --json")))
    assert figures["state"] == "well"
    sync = put(
        said(OPERATING, "datacube sync https://dojo"),
        **{"https://dojo.example/api/dojo": f"http://127.0.0.1:{dev.port + 1}"},
    )
    assert dev.run(sync) == "Nothing differs.\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_asked_for_by_hand_waits_and_is_processed(said: Said, dev: Dev, tmp_path: Path) -> None:
    port = free_port()
    refused = "datacube publish /nowhere.parquet --model-id bad --run-id one --quiet 2>&1"
    assert "/nowhere.parquet" in dev.run(refused, status=1)
    with running(
        f"datacube gateway --port {port}", dev.folder, dev.environment, tmp_path / "gateway"
    ) as gateway:
        gateway.wait("stop it with Ctrl-C")

        def call(page: str, start: str) -> str:
            return dev.run(at_port(said(page, start), port, "4040"))

        def waiting() -> int:
            return int(httpx.get(f"http://127.0.0.1:{port}/data-pipeline/status").json()["count"])

        wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz"), "the gateway")
        assert call(INFRA, "curl http://GATEWAY:4040/healthz").strip() == "ok"
        assert call(INFRA, "curl -X PUT http://GATEWAY:4040/data-pipeline/stop") == ""
        assert not httpx.get(f"http://127.0.0.1:{port}/data-pipeline/status").json()["is_running"]
        for command, keys in (
            (put(said(OPERATING, "datacube reprocess KEY"), KEY=KEY), [KEY]),
            (put(said(OPERATING, "datacube reprocess KEY --thresholds"), KEY=KEY), [KEY]),
            (put(said(OPERATING, "datacube reprocess --model ID"), ID="toy-crop-model"), RUNS),
            (said(OPERATING, "datacube list --failed --newer-than 1d --keys |"), ["bad:one"]),
            (said(DOJO, "datacube reprocess toy-crop-model:rainfall-low"), [KEY]),
            (said(DOJO, "datacube reprocess toy-crop-model:rainfall-low --thresholds"), [KEY]),
            (said(DOJO, "datacube reprocess toy-crop-model:rainfall-low --timestamp-unit s"), [KEY]),
            (said(DOJO, "datacube reprocess --model toy-crop-model"), RUNS),
            (said(DOJO, "datacube reprocess --failed"), ["bad:one"]),
            (said(DOJO, "datacube reprocess toy-crop-model:rainfall-low --tasks"), [KEY]),
        ):
            before = waiting()
            assert dev.run(command) == "".join(f"Asked for {key}\n" for key in keys)
            # The gateway looks at the queue once a second.
            wait_for(lambda: waiting() == before + len(keys), f"{command} to wait")  # noqa: B023
        assert dev.partitions()[KEY]["state"] == "QUEUED"
        # Of all these only the last word is wanted: that timestamps are in milliseconds after all.
        assert httpx.put(f"http://127.0.0.1:{port}/data-pipeline/clear").is_success
        dev.run(f"datacube reprocess {KEY} --timestamp-unit ms")
        by_hand = put(said(DOJO, "datacube reprocess MODEL_ID:RUN_ID..."), **{"MODEL_ID:RUN_ID...": PRICES})
        assert dev.run(by_hand) == f"Asked for {PRICES}\n"
        # The command of the page about the stack, for a partition that nothing else here asks for.
        (enqueue,) = (one for one in fenced_commands(INFRA) if "http://127.0.0.1:3001/" in one)
        others = {'"toy-crop-model"': '"m"', '"rainfall-low"': '"r"'}
        enqueue = put(dev.here(at_port(enqueue, port, "4040")), **others)
        assert dev.run(enqueue) == ""
        told = call(INFRA, "curl http://GATEWAY:4040/metrics")
        assert 'datacube_requests_total{outcome="accepted"} 1.0' in told
        assert re.search(r"^datacube_requests_waiting 3\.0$", told, re.MULTILINE), told
        before_start = dev.partitions()
        assert call(INFRA, "curl -X PUT http://GATEWAY:4040/data-pipeline/start") == ""
        dev.told("r READY")
        wait_for(lambda: waiting() == 0, "all to have started")
        after = dev.ready(KEY, PRICES, "m:r")
        for key in (KEY, PRICES):
            assert after[key]["newest_run"] != before_start[key]["newest_run"]
            assert after[key]["objects"] > 300


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_backfill_is_launched_at_the_command_line(said: Said, dev: Dev) -> None:
    before = dev.ready(KEY, NORMAL)
    dev.run(said(DOJO, "DAGSTER_HOME="))
    query = "{partitionBackfillsOrError {... on PartitionBackfills {results {id status partitionNames}}}}"

    def over() -> Any:
        (backfill,) = dev.graphql(query)["partitionBackfillsOrError"]["results"]
        assert backfill["partitionNames"] == [KEY, NORMAL]
        return backfill["status"].startswith("COMPLETED") and backfill

    assert wait_for(over, "the backfill", 200)["status"] in ("COMPLETED", "COMPLETED_SUCCESS")
    after = dev.ready(KEY, NORMAL)
    assert all(after[key]["newest_run"] != before[key]["newest_run"] for key in (KEY, NORMAL))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_simulators_do_as_they_are_told(said: Said, dev: Dev) -> None:
    def of_dojo(run_id: str) -> Any:
        return httpx.get(f"http://127.0.0.1:{dev.port + 1}/runs/{run_id}").json()["attributes"]

    before = dev.partitions()["toy-crop-model:rainfall-high"]["newest_run"]
    dev.run(dev.here(said(DOJO, "curl -X POST http://127.0.0.1:3001/simulator/runs/rainfall-high/finish")))
    assert of_dojo("rainfall-high")["status"] == "success"
    dev.run(dev.here(said(DOJO, "curl -X POST http://127.0.0.1:3001/simulator/runs/rainfall-low/fail")))
    assert of_dojo("rainfall-low")["status"] == "failed"
    # It was executed, perhaps again: that is another version of it.
    wait_for(lambda: dev.partitions()[HIGH]["newest_run"] != before, "its run", 120)
    dev.ready(HIGH)
    dev.run(dev.here(said(DOJO, "curl -X PUT http://127.0.0.1:3002")))
    causemos = f"http://127.0.0.1:{dev.port + 2}"
    switches = httpx.get(f"{causemos}/simulator/switches").json()
    assert switches["error_status"] == 500
    report = f"{causemos}/api/maas/pipeline-reporting/queue-runtime"
    answered = [httpx.put(report, json={}).status_code for _ in range(4)]
    # A report of a run may have met some of the three.
    assert 1 <= answered.count(500) <= 3
    assert answered[-1] != 500


@pytest.mark.slow
def test_a_gateway_for_other_machines_answers_only_those_that_are_named(
    said: Said, dev: Dev, tmp_path: Path
) -> None:
    port = free_port()
    named = said(GATEWAY, "export DATACUBE_GATEWAY_CLIENTS")
    command = said(GATEWAY, "datacube gateway --host").replace("4040", str(port))
    status = at_port(said(GATEWAY, "curl http://GATEWAY:4040/data-pipeline/status"), port, "4040")
    with running(f"{named}\n{command}", dev.folder, dev.environment, tmp_path / "gateway") as gateway:
        gateway.wait("stop it with Ctrl-C")
        wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz"), "the gateway")
        assert "may not call" in dev.run(status), "this machine is not in 10.1.0.0/16"
    # As the page says for one machine: without --host.
    command = re.sub(r" --host \S+", "", command)
    with running(command, dev.folder, dev.environment, tmp_path / "here") as gateway:
        gateway.wait("stop it with Ctrl-C")
        wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz"), "the gateway")
        assert dev.run(status).strip() == answers(GATEWAY, '{"count"').strip()
