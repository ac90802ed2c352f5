"""What lies in `infra/`, as far as it can be judged without Docker and without a cluster.

Structure is judged by the schemas of Compose and of Kubernetes, and by hadolint, which come with packages of
the extra `dev`; agreement between the files, and with the package, is judged here. That the commands work is
shown by `test_stack.py`, which runs them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import dask.config
import httpx
import jsonschema
import kubernetes_validate
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config
from prometheus_client.parser import text_string_to_metric_families

from datacube_assets.cli import main
from datacube_assets.development.ports import free_port
from datacube_assets.orchestration.home import DAGSTER_YAML
from datacube_assets.orchestration.run_queue import RunQueue
from datacube_assets.resources.local_cluster import SETTINGS
from datacube_assets.settings import Settings
from datacube_assets.view import documentation
from datacube_assets_tests.environment import nothing_set
from datacube_assets_tests.integration.system import gateway_process, wait_for

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
BIN = Path(sys.executable).parent
ENVIRONMENTS = ("local", "staging", "production")
KUBERNETES = "1.32"
LAUNCHER = "run_launcher"
OURS = ("code", "daemon", "webserver", "gateway", "view")
FOREIGN = {
    *(
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL_S3",
    ),
    *("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "PGDATA"),
    *("DAGSTER_HOME", "DAGSTER_DISABLE_TELEMETRY", "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS"),
    *("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL"),
    *(
        "DAGSTER_CURRENT_IMAGE",
        "DATACUBE_CONFIG_MAP",
        "DAGSTER_INSTANCE_CONFIG_MAP",
        "PATH",
        "PYTHONSAFEPATH",
        "PYTHONUNBUFFERED",
    ),
}
"""Variables that others read: AWS' clients, Postgres' image, Dagster, Dask, Python."""

Document = dict[str, Any]


def compose() -> Document:
    document: Document = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())
    return document


def program(name: str) -> Path:
    """A command of the image: a script that is copied there, or what a package brings."""
    copied = re.findall(rf"^COPY .*?(\S+) /usr/local/bin/{name}$", (INFRA / "Dockerfile").read_text(), re.M)
    return ROOT / copied[0] if copied else BIN / name


def variables(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def manifests(environment: str) -> list[Document]:
    """What would be applied."""
    return list(yaml.load_all(kustomized(environment), yaml.CSafeLoader))


@cache
def kustomized(environment: str) -> str:
    """The manifests as kustomize makes them."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl here, which has kustomize in it")
    made = subprocess.run(
        [kubectl, "kustomize", str(INFRA / "kubernetes" / environment)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


def pods(documents: list[Document]) -> dict[str, Document]:
    """The pod of each workload, by its name."""
    workloads = [one for one in documents if "template" in one.get("spec", {})]
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in workloads}


def named_by_dagster(path: Path) -> set[str]:
    """Variables that a file of Dagster's settings reads."""
    return set(re.findall(r"\{env: (\w+)\}", path.read_text()))


# --- structure --------------------------------------------------------------------------------------


def test_the_compose_file_keeps_to_the_schema() -> None:
    schema = files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json"
    jsonschema.validate(compose(), json.loads(schema.read_text()))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_manifests_keep_to_the_schemas_of_kubernetes(environment: str) -> None:
    documents = manifests(environment)
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    names = [(one["kind"], one["metadata"]["name"]) for one in documents]
    assert len(names) == len(set(names))


def test_the_dockerfile_has_no_faults() -> None:
    found = subprocess.run(
        [BIN / "hadolint", INFRA / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_scripts_are_understood_by_the_shell() -> None:
    for script in INFRA.glob("*.sh"):
        shell = script.read_text().partition("\n")[0].removeprefix("#!").split()[-1]
        subprocess.run([shell, "-n", script], check=True)


@pytest.mark.slow
def test_a_worker_of_dask_outlives_its_scheduler_and_ends_when_told_to() -> None:
    from distributed import Client

    address, port = f"tcp://127.0.0.1:{free_port()}", free_port()
    environment = {**nothing_set(), "PATH": f"{BIN}:/usr/bin:/bin", "PYTHONSAFEPATH": "1"}

    def begun(*command: str | Path) -> subprocess.Popen[bytes]:
        # As a container begins, which has the signals of a shell in the background at their defaults.
        words = ["env", "--default-signal=INT,TERM", *command]
        return subprocess.Popen(
            words,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def scheduler() -> subprocess.Popen[bytes]:
        numbers = [f"--port={address.rpartition(':')[2]}", f"--dashboard-address=127.0.0.1:{port}"]
        return begun("dask", "scheduler", "--host=127.0.0.1", *numbers)

    def workers() -> int:
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            return client.submit(os.getppid).result(timeout=60) and len(client.nthreads())

    first = scheduler()
    worker = begun(program("dask-worker"), address, "--nthreads=1", "--no-dashboard", "--host=127.0.0.1")
    try:
        assert workers() == 1
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        first = scheduler()
        assert workers() == 1
        worker.terminate()
        assert worker.wait(20) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        wait_for(lambda: not alive(worker.pid), "everything that it started to be gone", 20)
    finally:
        for one in (first, worker):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()


def alive(group: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


# --- agreement --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["compose/env.example", "kubernetes/base/datacube.env"])
def test_clusters_elsewhere_are_set_up_as_those_that_are_started_here(path: str) -> None:
    environment = {name: value for name, value in variables(INFRA / path).items() if name.startswith("DASK_")}
    set_there = dask.config.collect_env(environment)
    for name in ("distributed.worker.profile.enabled", "distributed.scheduler.worker-ttl"):
        assert dask.config.get(name, config=set_there) == SETTINGS[name]


def test_every_variable_is_read_by_somebody() -> None:
    ours = {str(field.alias) for field in Settings.model_fields.values()}
    of_dagster = named_by_dagster(INFRA / "dagster" / "dagster.yaml")
    of_dagster |= named_by_dagster(INFRA / "dagster" / "workspace.yaml")
    known = ours | of_dagster | FOREIGN
    used = set(variables(INFRA / "compose" / "env.example"))
    for service in compose()["services"].values():
        used |= set(service.get("environment", {}))
    used |= {
        name
        for words in re.findall(r"^ENV ((?:.*\\\n)*.*)", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
        for name in re.findall(r"(\w+)=", words)
        if not name.startswith("PIP_")
    }
    assert used <= known, sorted(used - known)
    assert of_dagster <= set(variables(INFRA / "compose" / "env.example"))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_variable_of_kubernetes_is_read_and_is_there(environment: str) -> None:
    base = INFRA / "kubernetes" / "base"
    ours = {str(field.alias) for field in Settings.model_fields.values()}
    of_dagster = named_by_dagster(base / "instance.yaml") | named_by_dagster(base / "workspace.yaml")
    documents = manifests(environment)
    given = {
        name
        for one in documents
        if one["kind"] in ("ConfigMap", "Secret") and "dagster.yaml" not in one["data"]
        for name in one["data"]
    }
    # The names of these themselves change with what is in them.
    given |= {one["name"] for one in pods(documents)["daemon"]["containers"][0]["env"]}
    # The secret of a real environment is made by hand, with these.
    secret = set(variables(INFRA / "kubernetes" / "local" / "secret.env"))
    assert given <= ours | of_dagster | FOREIGN
    assert of_dagster <= given | secret


def test_the_example_makes_good_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in ("compose/env.example", *(f"kubernetes/{one}/{one}.env" for one in ENVIRONMENTS)):
        values = {
            **variables(INFRA / "kubernetes" / "base" / "datacube.env"),
            **variables(INFRA / environment),
        }
        names = {str(field.alias) for field in Settings.model_fields.values()}
        for name in names:
            monkeypatch.delenv(name, raising=False)
        settings = Settings.from_environment(
            **{name: value for name, value in values.items() if name in names}
        )
        assert settings.environment == "production"
        assert settings.dask_mode == "scheduler"
        assert settings.lake.startswith("s3://")


def test_commands_of_the_image_exist() -> None:
    """As programs that the image's packages bring; those of `datacube` with their options."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    commands = [
        list(service["command"])
        for service in compose()["services"].values()
        if str(service["image"]).startswith("${DATACUBE_IMAGE")
    ]
    for environment in ENVIRONMENTS:
        for pod in pods(manifests(environment)).values():
            commands += [
                one["command"]
                for one in (*pod.get("initContainers", ()), *pod["containers"])
                if "datacube-assets" in one["image"] and "command" in one
            ]
    assert len(commands) > 20
    for command in commands:
        assert program(command[0]).exists(), command
        if command[0] in scripts:
            subcommand = main.commands[command[1]]
            options = {
                name for one in subcommand.params for name in one.opts if isinstance(one, click.Option)
            }
            assert {word.partition("=")[0] for word in command if word.startswith("--")} <= options


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_cluster_has_every_service_of_compose_with_its_command(environment: str) -> None:
    """But for those that only prepare something, and those that are there already in a real environment."""
    services = compose()["services"]
    there = pods(manifests(environment))
    stores_and_simulators = {"postgres", "s3", "dojo", "causemos"}
    wanted = {name for name, one in services.items() if one.get("restart") != "no"}
    assert wanted - there.keys() == (set() if environment == "local" else stores_and_simulators)
    for name in wanted - stores_and_simulators:
        (container,) = there[name]["containers"]
        more = {word for word in container["command"] if word.startswith("--dashboard-address")}
        assert set(services[name]["command"]) | more == set(container["command"]), name


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_ports_agree(environment: str) -> None:
    ports: dict[str, set[int]] = {}
    for name, service in compose()["services"].items():
        mapped = [str(one).rpartition(":")[2] for one in service.get("ports", ())]
        ports[name] = {int(one) for one in (*mapped, *service.get("expose", ()))}
        for port in ports[name] - {5432}:
            assert any(str(port) in str(word) for word in service["command"]), (name, port)
    every = [port for found in ports.values() for port in found]
    assert len(every) == len(set(every)), "infra/stack.py tells services apart by their ports"
    documents = manifests(environment)
    found = pods(documents)
    for service in (one for one in documents if one["kind"] == "Service"):
        name = service["metadata"]["name"]
        listening = {p["name"]: p["containerPort"] for p in found[name]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            assert listening[port["targetPort"]] == port["port"]
        assert set(listening.values()) == ports[name]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_everything_is_one_image_of_this_version(environment: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert compose()["x-datacube"]["image"].endswith(f":{version}}}")
    images = {
        container["image"]
        for pod in pods(manifests(environment)).values()
        for container in (*pod.get("initContainers", ()), *pod["containers"])
        if "datacube" in container["image"]
    }
    assert len(images) == 1
    if environment != "local":
        assert images.pop().endswith(f":{version}")
    # A code server tells the launcher of which image runs are.
    (code,) = pods(manifests(environment))["code"]["containers"]
    assert {"name": "DAGSTER_CURRENT_IMAGE", "value": code["image"]} in code["env"]


def test_the_documentation_is_in_the_image_where_it_is_served_from() -> None:
    """`COPY` puts the folder into the package, and .dockerignore leaves out nothing that a page needs."""
    copied = re.findall(r"^COPY (docs\S*) (\S+)$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    where = (documentation.FOLDERS[0].relative_to(ROOT)).as_posix()
    assert ("docs", where) in copied
    left_out = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("docs")]
    assert left_out == ["docs/*.py", "docs/notebooks"]
    view = compose()["services"]["view"]
    port = view["ports"][0].rpartition(":")[2]
    for path in ("compose/env.example", "kubernetes/local/local.env"):
        assert variables(INFRA / path)["DATACUBE_VIEW_URL"] == f"http://127.0.0.1:{port}"


def test_nothing_of_the_image_runs_as_root() -> None:
    users = re.findall(r"^USER (.*)$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    assert users[-1] == "10001:10001"
    for environment in ENVIRONMENTS:
        for name, pod in pods(manifests(environment)).items():
            if name in (*OURS, "dask-scheduler", "dask-worker"):
                assert pod["securityContext"]["runAsNonRoot"]
                for one in (*pod.get("initContainers", ()), *pod["containers"]):
                    assert not one["securityContext"]["allowPrivilegeEscalation"]


def test_secrets_are_in_no_manifest() -> None:
    for environment in ("staging", "production"):
        assert "Secret" not in {one["kind"] for one in manifests(environment)}


def test_dagsters_settings_are_the_same_everywhere() -> None:
    """With Postgres: but for the launcher; in the embedded default: but for what depends on the machine."""
    shared = yaml.safe_load((INFRA / "dagster" / "dagster.yaml").read_text())
    base = INFRA / "kubernetes" / "base"
    kubernetes = yaml.safe_load((base / "instance.yaml").read_text())
    assert kubernetes.pop(LAUNCHER)["class"] == "K8sRunLauncher"
    local = {**shared}
    assert local.pop(LAUNCHER)["class"] == "LocalProcessLauncher"
    assert kubernetes == local
    assert (base / "workspace.yaml").read_text() == (INFRA / "dagster" / "workspace.yaml").read_text()

    embedded = yaml.safe_load(DAGSTER_YAML.format(max_runs=2))
    for name in ("telemetry", "nux", "python_logs", LAUNCHER, "run_monitoring", "run_retries"):
        assert embedded[name] == shared[name], name
    queue, ours = shared["run_coordinator"], embedded["run_coordinator"]
    assert ours["config"].pop("max_concurrent_runs") == 2
    assert queue["config"].pop("max_concurrent_runs") == {"env": "DATACUBE_MAX_RUNS"}
    assert ours == queue


def test_dagster_understands_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files, as far as that goes without the database and without the cluster."""
    for name, value in variables(INFRA / "compose" / "env.example").items():
        monkeypatch.setenv(name, value)
    for name in ("DAGSTER_NAMESPACE", "DAGSTER_INSTANCE_CONFIG_MAP", "DATACUBE_CONFIG_MAP"):
        monkeypatch.setenv(name, "datacube")
    from dagster._core.instance.ref import InstanceRef
    from dagster._core.run_coordinator import QueuedRunCoordinator
    from dagster_k8s import K8sRunLauncher

    for source in (INFRA / "dagster" / "dagster.yaml", INFRA / "kubernetes" / "base" / "instance.yaml"):
        home = tmp_path / source.stem
        home.mkdir()
        (home / "dagster.yaml").write_text(source.read_text())
        dagster_instance_config(str(home))
        ref = InstanceRef.from_dir(str(home))
        coordinator = ref.run_coordinator
        assert isinstance(coordinator, RunQueue)
        assert QueuedRunCoordinator.get_run_queue_config(coordinator).max_concurrent_runs == 4
        assert "S3ComputeLogManager" in type(ref.compute_log_manager).__name__
    from dagster._config import process_config
    from dagster._config.field_utils import convert_potential_field

    launcher = yaml.safe_load((INFRA / "kubernetes" / "base" / "instance.yaml").read_text())[LAUNCHER]
    checked = process_config(
        convert_potential_field(K8sRunLauncher.config_type()).config_type, launcher["config"]
    )
    assert checked.success, checked.errors


def test_dashboard_and_alerts_name_figures_that_the_gateway_has(tmp_path: Path) -> None:
    """The gateway is asked over HTTP, after it was used, what it tells Prometheus."""
    figures = exposed(tmp_path)
    dashboard = json.loads((INFRA / "grafana" / "datacube.json").read_text())
    alerts = yaml.safe_load((INFRA / "prometheus" / "alerts.yaml").read_text())
    expressions = [one["expr"] for panel in dashboard["panels"] for one in panel["targets"]]
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert all(rule["annotations"]["action"] for rule in rules)
    shown = {name for text in expressions for name in re.findall(r"\bdatacube_\w+", text)}
    alerted = {name for rule in rules for name in re.findall(r"\bdatacube_\w+", rule["expr"])}
    assert shown <= figures, sorted(shown - figures)
    assert alerted <= figures, sorted(alerted - figures)
    of_gateway = {name for name in figures if not name.endswith(("_created", "_sum", "_count", "_bucket"))}
    ours = {name for name in of_gateway if name.startswith("datacube_")}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    assert ours <= families, f"not on the dashboard: {sorted(ours - families)}"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def exposed(folder: Path) -> set[str]:
    """Names of samples at `/metrics` of a gateway that has a request."""
    with gateway_process(folder) as url:
        told = httpx.get(f"{url}/data-pipeline/status", timeout=60)
        assert told.is_success
        text = httpx.get(f"{url}/metrics", timeout=60).text
    samples = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    # One that has labels has no samples before something happened.
    return samples | {
        name
        for family in text_string_to_metric_families(text)
        for name in (
            [f"{family.name}_total"]
            if family.type == "counter"
            else [f"{family.name}_{part}" for part in ("bucket", "count", "sum")]
            if family.type == "histogram"
            else [family.name]
        )
    }
