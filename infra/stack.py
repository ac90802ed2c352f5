"""The production stack on this machine, without containers: what `make stack` starts.

    .venv/bin/python infra/stack.py [--folder FOLDER] [--free-ports] [--only SERVICE ...]

Commands, variables, order and health checks are those of `compose/compose.yaml`, with `compose/env.example`
(or `--env-file`) and `dagster/`; what containers give is replaced by what is here: names of services by
loopback, the images of Postgres and SeaweedFS by Debian's packages and `datacube s3`. A process that ends is
started again. What a service does belongs there, how it is run as a process here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from datacube_assets.development.ports import free_ports

INFRA = Path(__file__).parent
BIN = Path(sys.executable).parent
IMAGE_HOME = "/opt/dagster"
"""DAGSTER_HOME of the image."""
POLL_SECONDS = 0.5
RESTART_SECONDS = 1.0
"""Before a process that ended is started again."""
START_SECONDS = 180.0
"""How long a service may take until its health check passes."""
STOP_SECONDS = 30.0
RUN_PROCESSES = (b"orchestration.run_worker", b"datacube run worker")
"""What the command line of a run's process has in it: one that starts, and one that waits or has a run."""
SHOWN = {
    "webserver": "Dagster UI",
    "gateway": "Gateway",
    "view": "Map, datacubes and documentation",
    "dask-scheduler": "Dask's scheduler",
    "dojo": "Simulator of Dojo",
    "causemos": "Simulator of CauseMos",
    "s3": "S3 server",
    "postgres": "Postgres",
}


class StackError(Exception):
    """It cannot be started; the message says why and what helps."""


@dataclass
class Service:
    """A process that is kept running, or one that has to end well once."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    health: list[str]
    once: bool
    after: Mapping[str, str]
    """Services it waits for, and what of them."""
    user: str | None = None
    process: subprocess.Popen[bytes] | None = None
    healthy: bool = False
    ended_at: float = 0.0
    starts: int = 0

    def start(self, folder: Path) -> None:
        with (folder / "logs" / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=folder if self.user is None else "/",
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
                group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
                extra_groups=None if self.user is None else [],
                # Ctrl-C is for us to hand on.
                start_new_session=True,
            )
        self.starts += 1

    def is_healthy(self, folder: Path) -> bool:
        if not self.health:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            checked = subprocess.run(
                self.health, cwd=folder, env=self.environment, capture_output=True, timeout=60, check=False
            )
            return checked.returncode == 0
        return False


ENVIRONMENT = "environment"
"""The file, below the folder of the stack, to be sourced before `datacube` is asked about it."""


@dataclass
class Stack:
    """All services, in the folder where they keep their data."""

    folder: Path
    services: dict[str, Service]
    ports: Mapping[int, int]
    """Of each port in compose.yaml, the one that is used here."""
    addresses: Mapping[str, str]
    environment: Mapping[str, str]
    told: dict[str, Any] = field(default_factory=dict)

    def up(self) -> None:
        """Start everything in order. Raises StackError naming the service that does not start."""
        self._check_ports()
        own = self.environment.keys() - {"HOME", "LANG", "PATH", "TMPDIR"}
        lines = (f"export {name}={shlex.quote(self.environment[name])}\n" for name in sorted(own))
        _write_private(self.folder / ENVIRONMENT, "".join(lines))
        waiting = dict(self.services)
        end = time.monotonic() + START_SECONDS
        while waiting or not all(one.healthy for one in self.services.values()):
            for name, service in list(waiting.items()):
                if all(self._has(other, what) for other, what in service.after.items()):
                    service.start(self.folder)
                    del waiting[name]
                    end = time.monotonic() + START_SECONDS
            self._look()
            if time.monotonic() > end:
                late = sorted(name for name, one in self.services.items() if not one.healthy)
                raise StackError(f"{late[0]} does not start: see {self.folder}/logs/{late[0]}.log")
            time.sleep(POLL_SECONDS)

    def _check_ports(self) -> None:
        taken = []
        for port in sorted(self.ports.values()):
            with socket.socket() as probe:
                # As servers do, so that one that just ended is in nobody's way.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    taken.append(str(port))
        if taken:
            raise StackError(
                f"somebody listens on port {', '.join(taken)} of this machine: end that (another stack?), or "
                "use --free-ports"
            )

    def only(self, names: Iterable[str]) -> None:
        """Leave out everything else. Raises StackError for a name that there is not."""
        if unknown := sorted(set(names) - self.services.keys()):
            raise StackError(f"there is no service {unknown[0]}: give {', '.join(self.services)}")
        wanted: set[str] = set()
        for name in names:
            wanted |= {one.name for one in _in_order(self.services, [name])}
        self.services = {name: one for name, one in self.services.items() if name in wanted}

    def watch(self) -> None:
        """Start again what ends, for ever."""
        while True:
            self._look()
            time.sleep(POLL_SECONDS)

    def _has(self, name: str, what: str) -> bool:
        service = self.services[name]
        return service.healthy if what != "service_started" else service.process is not None

    def _look(self) -> None:
        for service in self.services.values():
            if service.process is None or (service.once and service.healthy):
                continue
            status = service.process.poll()
            if service.once:
                service.healthy = status == 0
                if status:
                    raise StackError(f"{service.name} failed: see {self.folder}/logs/{service.name}.log")
            elif status is not None:
                service.ended_at = service.ended_at or time.monotonic()
                if time.monotonic() > service.ended_at + RESTART_SECONDS:
                    print(f"{service.name} ended with status {status}, and is started again.", flush=True)
                    service.ended_at, service.healthy = 0.0, False
                    service.start(self.folder)
            elif not service.healthy:
                service.healthy = service.is_healthy(self.folder)
        self._tell()

    def _tell(self) -> None:
        """Say in a file what runs, for tests and for whoever wants to stop one process."""
        told = {
            "addresses": dict(self.addresses),
            "environment": dict(self.environment),
            "processes": {name: one.process.pid for name, one in self.services.items() if one.process},
            "starts": {name: one.starts for name, one in self.services.items()},
            "up": all(one.healthy for one in self.services.values()),
        }
        if told != self.told:
            self.told = told
            _write_private(self.folder / "stack.json", json.dumps(told, indent=1))

    def down(self) -> None:
        """End everything: first what uses, then what is used, and the processes of runs with the daemon."""
        for service in reversed(_in_order(self.services)):
            if service.process is None:
                continue
            # Postgres takes SIGINT for "now, and cleanly"; SIGTERM waits for whoever is connected.
            with contextlib.suppress(ProcessLookupError):
                service.process.send_signal(signal.SIGINT if service.name == "postgres" else signal.SIGTERM)
            try:
                service.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                service.process.kill()
                service.process.wait()
            if service.name == "daemon":
                self._end_runs()
        self._end_runs()

    def _end_runs(self) -> None:
        mark = f"DAGSTER_HOME={self.folder / 'dagster'}".encode()
        ours = {one.process.pid for one in self.services.values() if one.process} | {os.getpid()}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in ours:
                with contextlib.suppress(OSError):
                    command = (entry / "cmdline").read_bytes()
                    is_run = any(name in command for name in RUN_PROCESSES)
                    if is_run and mark in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)


def _write_private(path: Path, text: str) -> None:
    """Replace a file in one go by one that only its owner may read."""
    scratch = path.with_name(f"{path.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_text(text)
    scratch.replace(path)


def _in_order(services: Mapping[str, Service], names: Iterable[str] | None = None) -> list[Service]:
    """Each after those that it waits for: all, or what some of them need."""
    ordered: dict[str, Service] = {}

    def add(name: str) -> None:
        for other in services[name].after:
            add(other)
        ordered.setdefault(name, services[name])

    for name in services if names is None else names:
        add(name)
    return list(ordered.values())


# --- from compose.yaml ------------------------------------------------------------------------------


def read_env(path: Path) -> dict[str, str]:
    """The variables of a file as Docker reads it."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """Text with `${NAME}`, `${NAME:-default}` and `${NAME:?message}` filled in. Raises StackError."""

    def fill(found: re.Match[str]) -> str:
        name, how, rest = found.groups()
        value = values.get(name, "")
        if not value and how == ":?":
            raise StackError(f"{name}: {rest}")
        return value or (rest if how == ":-" else "") or ""

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", fill, text)


def ports_of(service: Mapping[str, Any]) -> list[int]:
    """The ports that a service listens on in its container, mentioned in compose.yaml."""
    published = [str(one).rpartition(":")[2] for one in service.get("ports", ())]
    return sorted({int(one) for one in [*published, *service.get("expose", ())]})


def build(folder: Path, env_file: Path, *, elsewhere: bool) -> Stack:
    """The stack of compose.yaml in a folder, nothing started yet. Raises StackError."""
    values = read_env(env_file)
    compose = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())
    services: dict[str, dict[str, Any]] = compose["services"]
    inside = sorted({port for one in services.values() for port in ports_of(one)})
    ports = dict(zip(inside, free_ports(len(inside)) if elsewhere else inside, strict=True))
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    home = folder / "dagster"
    shutil.copytree(INFRA / "dagster", home, dirs_exist_ok=True)

    names = "|".join(sorted(map(re.escape, services), key=len, reverse=True))

    def here(text: str) -> str:
        text = interpolated(text, values)
        text = re.sub(rf"(?<![\w.-])(?:{names})(?=:\d)|0\.0\.0\.0", "127.0.0.1", text)
        text = text.replace(IMAGE_HOME, str(home)).replace("/home/datacube", str(folder / "home"))
        return re.sub(r"(?<!\d)\d{4,5}(?!\d)", lambda found: str(ports.get(int(found[0]), found[0])), text)

    def value_here(name: str, value: str) -> str:
        if name in SECRET:
            return value
        return "127.0.0.1" if value in services else here(value)

    kept = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
    environment = {
        **kept,
        "PATH": f"{BIN}:{kept.get('PATH', os.defpath)}",
        "DAGSTER_HOME": str(home),
        "DATACUBE_HOME": str(folder / "home"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        **{name: value_here(name, value) for name, value in values.items()},
    }
    (folder / "home" / "dojo").mkdir(parents=True, exist_ok=True)
    built: dict[str, Service] = {}
    for name, one in services.items():
        after = {other: how["condition"] for other, how in one.get("depends_on", {}).items()}
        for number in range(int(one.get("deploy", {}).get("replicas", 1))):
            label = name if number == 0 else f"{name}-{number + 1}"
            built[label] = Service(
                label,
                _program([here(part) for part in one.get("command", ())]),
                environment,
                _program([here(part) for part in one.get("healthcheck", {}).get("test", ())[1:]]),
                one.get("restart") == "no",
                after,
            )
    postgres = next(iter(ports_of(services["postgres"])))
    _postgres(built["postgres"], folder, ports[postgres], values)
    s3 = ports[next(iter(ports_of(services["s3"])))]
    built["s3"].command = [str(BIN / "datacube"), "s3", "--port", str(s3)]
    built["s3"].health = _program(
        ["python", "-c", f"import socket; socket.create_connection(('127.0.0.1', {s3})).close()"]
    )
    addresses = {
        name: f"{'tcp' if name in ('postgres', 'dask-scheduler', 'code') else 'http'}://127.0.0.1:{ports[found[0]]}"
        for name, one in services.items()
        if (found := ports_of(one))
    }
    addresses["dask-scheduler"] = environment["DATACUBE_DASK_SCHEDULER"]
    return Stack(folder, built, ports, addresses, environment)


SECRET = frozenset(
    (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "CAUSEMOS_PASSWORD",
        "DAGSTER_POSTGRES_PASSWORD",
        "DATACUBE_ADDRESS_KEY",
        "DATACUBE_GATEWAY_TOKEN",
        "DOJO_PASSWORD",
    )
)
"""Variables whose values are no addresses, whatever they look like."""


def _program(command: list[str]) -> list[str]:
    """A command with its program from .venv, where it is one of these."""
    if command and (BIN / command[0]).exists():
        return [str(BIN / command[0]), *command[1:]]
    return command


# --- Postgres ---------------------------------------------------------------------------------------


def _postgres(service: Service, folder: Path, port: int, values: Mapping[str, str]) -> None:
    """Prepare a database as the image does at its first start; it does not run as root."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise StackError(
            "there is no Postgres here: run `make postgres`, or install the package `postgresql`"
        )
    binaries = found[-1]
    user = "postgres" if os.geteuid() == 0 else None
    data = folder / "postgres"
    service.user = user
    service.environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    options = ["-h", "127.0.0.1", "-p", str(port), "-c", "unix_socket_directories="]
    service.command = [str(binaries / "postgres"), "-D", str(data), *options]
    service.health = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    if (data / "PG_VERSION").exists():
        return
    data.mkdir(mode=0o700, exist_ok=True)
    password = folder / f".{secrets.token_hex(8)}"
    password.touch(mode=0o600)
    password.write_text(values["DAGSTER_POSTGRES_PASSWORD"])
    if user:
        account = pwd.getpwnam(user)
        os.chown(data, account.pw_uid, account.pw_gid)
        os.chown(password, account.pw_uid, account.pw_gid)
    database = values["DAGSTER_POSTGRES_DB"]
    try:
        arguments = ["--auth=scram-sha-256", "-E", "UTF8", "-U", values["DAGSTER_POSTGRES_USER"]]
        for command, text in (
            ([str(binaries / "initdb"), "-D", str(data), *arguments, f"--pwfile={password}"], None),
            (
                [str(binaries / "postgres"), "--single", "-D", str(data), "postgres"],
                f'CREATE DATABASE "{database}"\n',
            ),
        ):
            done = subprocess.run(
                command,
                input=text,
                cwd="/",
                env=service.environment,
                user=user,
                group=None if user is None else pwd.getpwnam(user).pw_gid,
                extra_groups=None if user is None else [],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise StackError(
                    f"Postgres cannot be prepared in {data}: {done.stderr.strip()[-500:]}. The user "
                    f"{user or 'that starts it'} has to reach that folder: choose another one with --folder"
                )
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
    finally:
        password.unlink()


# --- the command ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _running(stack: Stack) -> Iterator[None]:
    try:
        yield
    finally:
        print("Stopping everything ...", flush=True)
        # A second Ctrl-C would leave half of it running.
        for end in (signal.SIGINT, signal.SIGTERM):
            signal.signal(end, signal.SIG_IGN)
        stack.down()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make stack", description="Run the production stack without Docker."
    )
    default = Path("datacube-home/stack")
    parser.add_argument(
        "--folder", type=Path, default=default, help=f"where data and logs are kept [{default}]"
    )
    parser.add_argument(
        "--env-file", type=Path, default=INFRA / "compose" / "env.example", help="[infra/compose/env.example]"
    )
    parser.add_argument(
        "--free-ports", action="store_true", help="any ports, instead of those of compose.yaml"
    )
    parser.add_argument("--only", nargs="+", metavar="SERVICE", help="these, and what they need [all]")
    options = parser.parse_args()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # SIGINT as well: it is ignored by what a script starts in the background.
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, interrupt)
    try:
        stack = build(options.folder.absolute(), options.env_file, elsewhere=options.free_ports)
        if options.only:
            stack.only(options.only)
        with _running(stack):
            stack.up()
            for name, what in SHOWN.items():
                if name in stack.services:
                    print(f"{what:<24}{stack.addresses[name]}")
            print(f"{'Logs':<24}{stack.folder}/logs")
            print(f"{'For datacube status':<24}source {stack.folder}/{ENVIRONMENT}")
            print("Stop everything with Ctrl-C.", flush=True)
            stack.watch()
    except StackError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
