"""What the manifests mean, without a cluster: permissions, order, probes, room, and what a change does.

Their structure, and that they agree with each other, is judged in `test_infra.py`. The code that makes the
calls and opens the ports is asked here, and Dagster's storage is a real Postgres.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from datacube_assets.development.ports import free_port
from datacube_assets.settings import Settings, networks
from datacube_assets_tests.environment import nothing_set
from datacube_assets_tests.integration.system import wait_for
from datacube_assets_tests.integration.test_infra import (
    BIN,
    ENVIRONMENTS,
    INFRA,
    Document,
    compose,
    manifests,
    pods,
    program,
)

STORED = ("code", "daemon", "webserver", "gateway")
"""What uses Dagster's storage."""
SMALL_NODE = {"cpu": 2.0, "memory": 8 * 2**30}
OF_THE_CLUSTER = {"cpu": 0.95, "memory": 0.3 * 2**30}
"""What a cluster of kubeadm, kind or minikube asks for itself."""


def workloads(documents: list[Document]) -> dict[str, Document]:
    return {one["metadata"]["name"]: one for one in documents if "template" in one.get("spec", {})}


def settings_of(documents: list[Document], name: str) -> dict[str, str]:
    """What a ConfigMap holds, by the name that it has before its hash."""
    (found,) = (
        one
        for one in documents
        if one["kind"] == "ConfigMap" and re.fullmatch(rf"{name}-\w{{10}}", one["metadata"]["name"])
    )
    return dict(found["data"])


# --- permissions ------------------------------------------------------------------------------------

_VERBS = {"read": "get", "list": "list", "create": "create", "delete": "delete", "patch": "patch"}


def calls_of_dagster() -> set[tuple[str, str, str]]:
    """Group, resource and verb of each call that the client of dagster-k8s makes, read in its source."""
    found = importlib.util.find_spec("dagster_k8s.client")
    assert found is not None
    assert found.origin is not None
    calls = set()
    for node in ast.walk(ast.parse(Path(found.origin).read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            group = {"batch_api": "batch", "core_api": ""}.get(node.value.attr)
            named = re.fullmatch(r"([a-z]+)_namespaced_([a-z]+)_?([a-z]*)", node.attr)
            if group is not None and named is not None:
                verb, resource, part = named.groups()
                calls.add((group, f"{resource}s{part and '/' + part}", _VERBS[verb]))
    return calls


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_account_may_do_what_dagster_does_and_nothing_else(environment: str) -> None:
    """Without `delete` of pods, a run that was terminated went on publishing."""
    (role,) = (one for one in manifests(environment) if one["kind"] == "Role")
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    calls = calls_of_dagster()
    assert ("", "pods", "delete") in calls
    assert allowed == calls


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_only_what_starts_and_ends_runs_has_a_token(environment: str) -> None:
    for name, pod in pods(manifests(environment)).items():
        assert pod.get("automountServiceAccountToken", True) == (name in ("daemon", "webserver")), name


# --- migration --------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_whatever_uses_the_storage_migrates_it_first(environment: str) -> None:
    documents = manifests(environment)
    for name in STORED:
        (first,) = pods(documents)[name]["initContainers"]
        (main,) = pods(documents)[name]["containers"]
        assert first["image"] == main["image"]
        assert first["envFrom"] == main["envFrom"]
        assert first["volumeMounts"] == main["volumeMounts"]
    services = compose()["services"]

    def after(name: str) -> set[str]:
        found = set(services[name].get("depends_on", {}))
        return found.union(*map(after, found))

    for name in STORED:
        assert "migrate" in after(name)
    assert services["code"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


@pytest.fixture(scope="module")
def postgres() -> Iterator[dict[str, str]]:
    """Variables of an empty Postgres of its own, as Kubernetes gives them."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("there is no Postgres here: run `make postgres`")
    loaded = importlib.util.spec_from_file_location("infra_stack", INFRA / "stack.py")
    assert loaded is not None
    assert loaded.loader is not None
    stack: Any = importlib.util.module_from_spec(loaded)
    sys.modules["infra_stack"] = stack
    loaded.loader.exec_module(stack)
    # Not below pytest's folder, which only its owner may enter: Postgres does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="datacube-postgres-"))
    folder.chmod(0o755)
    built = stack.build(folder, INFRA / "compose" / "env.example", elsewhere=True)
    service = built.services["postgres"]
    service.start(folder)
    try:
        wait_for(lambda: service.is_healthy(folder), "Postgres")
        yield {**built.environment, "DAGSTER_NAMESPACE": "datacube"}
    finally:
        service.process.send_signal(signal.SIGINT)
        service.process.wait(60)
        shutil.rmtree(folder)


def home_of(environment: str, folder: Path) -> Path:
    """DAGSTER_HOME as a container has it."""
    for name, text in settings_of(manifests(environment), "dagster-instance").items():
        (folder / name).write_text(text)
    return folder


def migrate(home: Path, given: dict[str, str]) -> subprocess.CompletedProcess[str]:
    (first,) = pods(manifests("production"))["code"]["initContainers"]
    command = [str(BIN / first["command"][0]), *first["command"][1:]]
    return subprocess.run(
        command,
        env={**given, "DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def sql(given: dict[str, str], text: str) -> list[Any]:
    import psycopg2

    with contextlib.closing(
        psycopg2.connect(
            host=given["DAGSTER_POSTGRES_HOST"],
            port=given["DAGSTER_POSTGRES_PORT"],
            user=given["DAGSTER_POSTGRES_USER"],
            password=given["DAGSTER_POSTGRES_PASSWORD"],
            dbname=given["DAGSTER_POSTGRES_DB"],
        )
    ) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(text)
            return list(cursor.fetchall()) if cursor.description else []


def test_the_migration_needs_no_token_and_leaves_a_newer_storage_alone(
    postgres: dict[str, str], tmp_path: Path
) -> None:
    """`dagster instance migrate` asks for the run launcher, and for the token that such a pod lacks.

    One story, as each command takes seconds: an empty storage, the way back to an older image, which knows
    nothing of the storage's version, and Dagster's own command in the same place.
    """
    home = home_of("production", tmp_path)
    first = migrate(home, postgres)
    assert first.returncode == 0, first.stderr
    (version,) = sql(postgres, "SELECT version_num FROM alembic_version")[0]
    assert version in first.stdout
    sql(postgres, "UPDATE alembic_version SET version_num = 'of the future'")
    newer = migrate(home, postgres)
    assert newer.returncode == 0, newer.stderr
    assert "newer version (of the future" in newer.stdout
    assert sql(postgres, "SELECT version_num FROM alembic_version") == [("of the future",)]
    sql(postgres, f"UPDATE alembic_version SET version_num = '{version}'")
    dagsters = subprocess.run(
        [BIN / "dagster", "instance", "migrate"],
        env={
            **postgres,
            "DAGSTER_HOME": str(home),
            "DATACUBE_CONFIG_MAP": "a",
            "DAGSTER_INSTANCE_CONFIG_MAP": "b",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert dagsters.returncode != 0
    assert "Service token file does not exist" in dagsters.stderr or "cluster" in dagsters.stderr


# --- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_changed_setting_restarts_whatever_reads_it_and_reaches_runs(environment: str) -> None:
    documents = manifests(environment)
    maps = {one["metadata"]["name"] for one in documents if one["kind"] == "ConfigMap"}
    assert all(re.search(r"-[a-z0-9]{10}$", name) for name in maps), maps
    used = set()
    for pod in pods(documents).values():
        for one in (*pod.get("initContainers", ()), *pod["containers"]):
            used |= {src["configMapRef"]["name"] for src in one.get("envFrom", ()) if "configMapRef" in src}
        used |= {one["configMap"]["name"] for one in pod.get("volumes", ()) if "configMap" in one}
    assert used == maps
    launcher = yaml.safe_load(settings_of(documents, "dagster-instance")["dagster.yaml"])["run_launcher"]
    names = launcher["config"]["env_config_maps"] + [launcher["config"]["instance_config_map"]]
    for name in ("daemon", "webserver"):
        (container,) = pods(documents)[name]["containers"]
        given = {one["name"]: one["value"] for one in container["env"]}
        assert {given[one["env"]] for one in names} == maps
    for name, one in workloads(documents).items():
        if one["kind"] == "Job":
            # A job cannot be changed, so it cannot follow a name that does.
            assert "configMapRef" not in str(one), name
            assert one["spec"]["ttlSecondsAfterFinished"] < 300


def test_a_changed_setting_leaves_the_stores_alone() -> None:
    """Postgres read two of its names in the ConfigMap, so that any change restarted it below what uses it."""
    documents = manifests("local")
    given = settings_of(documents, "datacube")
    for one in workloads(documents).values():
        if one["kind"] == "StatefulSet":
            assert "configMap" not in str(one), one["metadata"]["name"]
    (container,) = pods(documents)["postgres"]["containers"]
    values = {one["name"]: one.get("value") for one in container["env"]}
    assert values["POSTGRES_USER"] == given["DAGSTER_POSTGRES_USER"]
    assert values["POSTGRES_DB"] == given["DAGSTER_POSTGRES_DB"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_what_browsers_reach_has_of_the_secret_only_what_it_reads_with(environment: str) -> None:
    """Neither Dagster's password nor the key of addresses; and an account may be given in another way."""
    (container,) = pods(manifests(environment))["view"]["containers"]
    assert "secretRef" not in str(container["envFrom"])
    from_secret = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"]}
    assert set(from_secret) == {
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        *("DOJO_USERNAME", "DOJO_PASSWORD"),
    }
    assert all(one["key"] == name and one["optional"] for name, one in from_secret.items())


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_gateway_may_be_called_through_a_forwarded_port(environment: str) -> None:
    """`kubectl port-forward` comes from the pod's own loopback."""
    given = settings_of(manifests(environment), "datacube")["DATACUBE_GATEWAY_CLIENTS"]
    allowed = {str(one) for one in networks(given)}
    assert {"127.0.0.0/8", "::1/128"} <= allowed


def test_every_variable_of_a_container_is_known() -> None:
    ours = {str(field.alias) for field in Settings.model_fields.values()}
    theirs = {"DAGSTER_CURRENT_IMAGE", "PGDATA", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}
    launcher = set(
        re.findall(r"\{env: (\w+)\}", (INFRA / "kubernetes" / "base" / "instance.yaml").read_text())
    )
    aws = {"AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    for environment in ENVIRONMENTS:
        for name, pod in pods(manifests(environment)).items():
            for one in (*pod.get("initContainers", ()), *pod["containers"]):
                given = {variable["name"] for variable in one.get("env", ())}
                assert given <= ours | theirs | launcher | aws, name


# --- room -------------------------------------------------------------------------------------------


def amount(text: str | float) -> float:
    units = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30, "": 1}
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * units[unit]


def requested(pod: Document) -> dict[str, float]:
    """What the scheduler reserves: containers together, or the largest of those that come before them."""
    found = {}
    for what in ("cpu", "memory"):
        asked = [
            [amount(one.get("resources", {}).get("requests", {}).get(what, 0)) for one in pod.get(part, ())]
            for part in ("containers", "initContainers")
        ]
        found[what] = max(sum(asked[0]), *asked[1], 0)
    return found


def test_the_local_environment_fits_a_small_node() -> None:
    """With as many runs as may be at work; or, without runs, while everything is replaced at once."""
    documents = manifests("local")
    launcher = yaml.safe_load(settings_of(documents, "dagster-instance")["dagster.yaml"])["run_launcher"]
    run = launcher["config"]["run_k8s_config"]["container_config"]["resources"]["requests"]
    runs = int(settings_of(documents, "datacube")["DATACUBE_MAX_RUNS"])
    for what, room in SMALL_NODE.items():
        kept, rolled = OF_THE_CLUSTER[what], OF_THE_CLUSTER[what]
        for one in workloads(documents).values():
            asked = requested(one["spec"]["template"]["spec"])[what]
            replicas = one["spec"].get("replicas", 1)
            kept += asked * replicas
            surge = one["kind"] == "Deployment" and one["spec"].get("strategy", {}).get("type") != "Recreate"
            rolled += asked * (replicas + surge)
        assert kept + runs * amount(run[what]) <= room, what
        assert rolled <= room, what
    for name, pod in pods(documents).items():
        assert min(requested(pod).values()) > 0 or name == "buckets", f"{name} asks for nothing"


def test_dasks_limit_is_that_of_the_container() -> None:
    """Left to itself Dask takes a share by processors, and on large machines ends workers for nothing."""
    worker = compose()["services"]["dask-worker"]
    (limit,) = (word.partition("=")[2] for word in worker["command"] if word.startswith("--memory-limit="))
    assert (limit, worker["mem_limit"]) == ("4GiB", "4g")
    for environment in ENVIRONMENTS:
        (container,) = pods(manifests(environment))["dask-worker"]["containers"]
        assert "--memory-limit=4GiB" in container["command"]
        assert container["resources"]["limits"]["memory"] == "4Gi"


def test_every_bucket_finds_room_for_its_volumes() -> None:
    """The S3 server gives each bucket volumes of its own, up to seven at once, and grows by as many."""
    documents = manifests("local")
    commands = {
        "compose": compose()["services"]["s3"]["command"],
        "local": pods(documents)["s3"]["containers"][0]["args"],
    }
    (claim,) = workloads(documents)["s3"]["spec"]["volumeClaimTemplates"]
    room = amount(claim["spec"]["resources"]["requests"]["storage"])
    for name, command in commands.items():
        options = dict(word.partition("=")[::2] for word in command)
        size = int(options["-master.volumeSizeLimitMB"]) * 2**20
        assert 4 * 7 * size * 2 <= room, name
        # As many as fit, and not eight for all buckets.
        assert options["-volume.max"] == "0", name


# --- rolling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_amounts_are_text(environment: str) -> None:
    """As the API names their type: `kubectl apply --server-side` refuses a number in its place."""
    for name, pod in pods(manifests(environment)).items():
        for one in (*pod.get("initContainers", ()), *pod["containers"]):
            for amounts in one.get("resources", {}).values():
                assert {type(value) for value in amounts.values()} == {str}, name


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_rolling_out_keeps_one_of_everything_that_work_needs(environment: str) -> None:
    documents = manifests(environment)
    for name in ("gateway", "webserver", "dask-worker"):
        spec = workloads(documents)[name]["spec"]
        assert spec["strategy"]["type"] == "RollingUpdate"
        (container,) = spec["template"]["spec"]["containers"]
        assert "readinessProbe" in container, "only what is ready replaces another"
        (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"] == spec["selector"]["matchLabels"]
    rolling = workloads(documents)["dask-worker"]["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 1, "maxUnavailable": 0}
    budgets = {
        one["spec"]["selector"]["matchLabels"]["app"]: one["spec"]["maxUnavailable"]
        for one in documents
        if one["kind"] == "PodDisruptionBudget"
    }
    assert budgets == {"gateway": 1, "webserver": 1, "dask-worker": 1}


def test_a_run_that_is_terminated_is_gone_within_ten_seconds() -> None:
    launcher = yaml.safe_load(settings_of(manifests("production"), "dagster-instance")["dagster.yaml"])
    pod = launcher["run_launcher"]["config"]["run_k8s_config"]["pod_spec_config"]
    assert pod["termination_grace_period_seconds"] < 10


def test_services_of_compose_share_no_processes() -> None:
    """One that did ended with the other."""
    assert not [name for name, one in compose()["services"].items() if "pid" in one]


def test_what_comments_name_is_there() -> None:
    for path in sorted(INFRA.rglob("*")):
        if path.suffix in (".yaml", ".sh", ".example", ".env", ".py") or path.name == "Dockerfile":
            comments = re.findall(r"^\s*#+ (.*)$", path.read_text(), re.MULTILINE)
            for named in re.findall(
                r"[\w.-]+(?:/[\w.-]+)*/[\w-]+\.(?:yaml|py|md|json|sh)\b", "\n".join(comments)
            ):
                places = (INFRA.parent, INFRA, path.parent, INFRA / "kubernetes")
                assert any((place / named).exists() for place in places), f"{path.name}: {named}"


# --- probes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment_of_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("probed")
    (folder / "dagster").mkdir()
    (folder / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return {**nothing_set(), "DATACUBE_HOME": str(folder), "DAGSTER_HOME": str(folder / "dagster")}


@pytest.mark.parametrize(
    "name",
    [
        *("code", "gateway", "view", "dask-scheduler", "dojo"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("dask-worker", "webserver")),
    ],
)
def test_probes_pass_against_what_the_process_opens(
    name: str, environment_of_processes: dict[str, str], tmp_path: Path
) -> None:
    """Each command as it is, but for free ports, and this machine in place of the names of others."""
    (container,) = pods(manifests("local"))[name]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container.get("ports", ())}
    here = {str(port): str(free_port()) for port in ports.values()}
    scheduler = None
    if name == "dask-worker":
        here |= {"8786": str(free_port())}
        (command,) = (
            one["containers"][0]["command"]
            for key, one in pods(manifests("local")).items()
            if key == "dask-scheduler"
        )
        scheduler = start(command, {**here, "8787": str(free_port())}, environment_of_processes, tmp_path)
    process = start(container["command"], here, environment_of_processes, tmp_path)
    try:
        probes = [
            one for kind in ("startup", "readiness", "liveness") if (one := container.get(f"{kind}Probe"))
        ]
        assert probes
        for probe in probes:
            wait_for(functools.partial(passes, probe, ports, here), f"{name} to pass {probe}", 120)
        listening = {int(here[str(port)]) for port in ports.values()}
        assert all(is_open(port) for port in listening)
    finally:
        for one in filter(None, (process, scheduler)):
            one.terminate()
        for one in filter(None, (process, scheduler)):
            one.wait(60)


def start(
    command: list[str], here: dict[str, str], environment: dict[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    workspace = folder / "workspace.yaml"
    workspace.write_text("load_from: []\n")
    (dojo := folder / "dojo").mkdir(exist_ok=True)
    words = []
    for word in command:
        word = word.replace("/opt/dagster/workspace.yaml", str(workspace)).replace(
            "/home/datacube/dojo", str(dojo)
        )
        word = word.replace("dask-scheduler:", "127.0.0.1:").replace("0.0.0.0", "127.0.0.1")
        for port, free in here.items():
            word = re.sub(rf"\b{port}\b", free, word)
        words.append(word)
    words[0] = str(program(words[0]))
    # As a container begins. Dagster does with SIGTERM what is done with SIGINT, and that is nothing where a
    # shell has started this in the background.
    return subprocess.Popen(
        ["env", "--default-signal=INT", *words],
        env={**environment, "PATH": f"{BIN}:/usr/bin:/bin"},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def passes(probe: Document, ports: dict[str, int], here: dict[str, str]) -> bool:
    with contextlib.suppress(httpx.TransportError, grpc.RpcError):
        if "grpc" in probe:
            port = here[str(probe["grpc"]["port"])]
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                asked = HealthCheckRequest(service=probe["grpc"]["service"])
                answer = HealthStub(channel).Check(asked, timeout=5)
                return bool(answer.status == HealthCheckResponse.SERVING)
        if "httpGet" in probe:
            port = here[str(ports[probe["httpGet"]["port"]])]
            return httpx.get(f"http://127.0.0.1:{port}{probe['httpGet']['path']}", timeout=10).is_success
        return is_open(int(here[str(ports[probe["tcpSocket"]["port"]])]))
    return False


def is_open(port: int) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
