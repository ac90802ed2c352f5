"""Machines of a network of their own on this one: namespaces of Linux, and a hub between them.

A machine has its own network, processes, clocks since the start, /tmp, /var/tmp and /dev/shm. Of the disk of
this one it sees the project and Python, which it cannot change. So what works there needs no shared disk and
no loopback. The wire of each machine is a TUN device. A hub, the process that this module is as a
program, reads every packet, counts it, and hands it on when its time has come: many kernels cannot delay
packets themselves (`tc netem`).

    python -m datacube_assets_tests.integration.network NAMESPACE...
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from datacube_assets_tests.integration.dask_cluster import wait_until

ROOT = Path(__file__).parents[2]
PROGRAMS = ("ip", "unshare", "mount")
_NETWORK: Final = "10.77.0."
_TUN, _NO_PI, _SET_IFF, _CLONE_NEWNET = 0x0001, 0x1000, 0x400454CA, 0x4000_0000
_MTU: Final = 65_000
_AT_ONCE: Final = 64
"""Packets of a machine that are read before another one has its turn."""
_TCP: Final = 6

_ALONE: Final = """
set -e
mkdir -p /run/datacube-project
mount --bind "$PROJECT" /run/datacube-project
for folder in /tmp /var/tmp /dev/shm; do mount -t tmpfs tmpfs "$folder"; done
mkdir -p "$PROJECT" /tmp/home /tmp/run
mount --bind /run/datacube-project "$PROJECT"
mount -o remount,bind,ro "$PROJECT"
cat > /tmp/run/input
cd /tmp/run
exec "$@"
"""


@dataclass(frozen=True)
class Traffic:
    """What went from one machine to another."""

    bytes: int
    packets: int
    messages: int
    """Packets of TCP that carry something: about as many as were written, small ones at least."""

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(
            self.bytes - before.bytes, self.packets - before.packets, self.messages - before.messages
        )


@dataclass
class Network:
    """Machines by name, and the hub between them."""

    hub: subprocess.Popen[str]
    namespaces: dict[str, str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def address(self, machine: str) -> str:
        return f"{_NETWORK}{list(self.namespaces).index(machine) + 1}"

    def delay(self, seconds: float) -> None:
        """How long every packet is on its way, from now on."""
        self._ask(f"delay {seconds}")

    def traffic(self) -> dict[tuple[str, str], Traffic]:
        """All that went from each machine to each."""
        names = list(self.namespaces)
        counts = json.loads(self._ask("counts"))
        return {
            (one, other): Traffic(*counts[i][j])
            for i, one in enumerate(names)
            for j, other in enumerate(names)
        }

    def _ask(self, command: str) -> str:
        asked, answers = self.hub.stdin, self.hub.stdout
        assert asked is not None, "it is a pipe"
        assert answers is not None, "it is a pipe"
        asked.write(f"{command}\n")
        asked.flush()
        return answers.readline()

    def command(self, machine: str, *command: str) -> list[str]:
        """A command as it is executed on a machine."""
        # No two machines were started at the same time.
        began = str(100_000 * (1 + list(self.namespaces).index(machine)))
        apart = ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
        clocks = ["--time", "--boottime", began, "--monotonic", began]
        alone = [*apart, *clocks, "bash", "-c", _ALONE, "bash"]
        return ["ip", "netns", "exec", self.namespaces[machine], *alone, *command]

    def start(self, machine: str, *command: str, environment: Mapping[str, str], log: Path) -> None:
        """Start a process on a machine; it ends with the network."""
        with log.open("wb") as sink:
            self.running.append(
                subprocess.Popen(
                    self.command(machine, *command),
                    env=_inner(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def run(
        self, machine: str, *command: str, environment: Mapping[str, str], given: Path | None = None
    ) -> str:
        """What a command says that is executed on a machine, to which a file is `given` as `input`."""
        with (given or Path(os.devnull)).open("rb") as file:
            done = subprocess.run(
                self.command(machine, *command),
                env=_inner(environment),
                stdin=file,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


def _inner(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        **environment,
        "PROJECT": str(ROOT),
        "HOME": "/tmp/home",
        "TMPDIR": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
    }


def why_not() -> str | None:
    """Why there can be no such network here; None if there can."""
    if os.geteuid():
        return "namespaces and devices take the rights of root"
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"there is no {', '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    name = f"datacube-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces cannot be made: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    apart = ["unshare", "--mount", "--pid", "--fork", "--time", "--boottime", "9", "true"]
    tried = subprocess.run(apart, capture_output=True, text=True, check=False)
    problem = f"mounts, processes and clocks cannot be apart: {tried.stderr.strip()}"
    return problem if tried.returncode else None


@contextlib.contextmanager
def network(*machines: str) -> Iterator[Network]:
    """A network of these machines; nothing of it is left afterwards."""
    namespaces = {name: f"datacube-{os.getpid()}-{name}" for name in machines}
    with contextlib.ExitStack() as made:
        for namespace in namespaces.values():
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            made.callback(subprocess.run, ["ip", "netns", "delete", namespace], check=True)
        hub = subprocess.Popen(
            [sys.executable, "-m", __name__, *namespaces.values()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        made.enter_context(hub)
        made.callback(hub.kill)
        whole = Network(hub, namespaces)
        assert hub.stdout is not None, "it is a pipe"
        assert hub.stdout.readline() == "ready\n"
        for name, namespace in namespaces.items():
            for line in (
                f"address add {whole.address(name)}/24 dev wire",
                f"link set wire mtu {_MTU} txqueuelen 10000 up",
                "link set lo up",
            ):
                subprocess.run(["ip", "-n", namespace, *line.split()], check=True)
        try:
            yield whole
        finally:
            for process in whole.running:
                # With the first process of a machine all others end, also those with a session of their own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            wait_until(lambda: not any(map(_processes, namespaces.values())))


def _processes(namespace: str) -> list[bytes]:
    """Ids of the processes that are in a namespace."""
    return subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, check=True).stdout.split()


# --- the hub ---------------------------------------------------------------------------------------


def _wire(namespace: str) -> int:
    """A TUN device in a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _SET_IFF, struct.pack("16sH22x", b"wire", _TUN | _NO_PI))
        libc.setns(here, _CLONE_NEWNET)
        return device
    finally:
        os.close(here)
        os.close(there)


def _carries(packet: bytes) -> bool:
    """Whether a packet of IPv4 is one of TCP with something in it."""
    head = 4 * (packet[0] & 15)
    return packet[9] == _TCP and len(packet) > head + 4 * (packet[head + 12] >> 4)


def _switch(namespaces: Sequence[str]) -> None:
    """Hand packets on, until nobody asks any more."""
    devices = [_wire(namespace) for namespace in namespaces]
    counts = [[[0, 0, 0] for _ in devices] for _ in devices]
    delay, due = 0.0, deque[tuple[float, int, bytes]]()
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    for number, device in enumerate(devices):
        selector.register(device, selectors.EVENT_READ, number)
    print("ready", flush=True)
    while True:
        wait = max(due[0][0] - time.monotonic(), 0.0) if due else None
        for key, _ in selector.select(wait):
            if key.data is None:
                command = sys.stdin.readline().split()
                if not command:
                    return
                if command[0] == "delay":
                    delay = float(command[1])
                print(json.dumps(counts), flush=True)
                continue
            for packet in _packets(key.fd):
                # The last part of the address that it is for. IPv6 looks for neighbours that are not here.
                other = packet[19] - 1 if packet[0] >> 4 == 4 else -1
                if not 0 <= other < len(devices):
                    continue
                count = counts[key.data][other]
                count[0] += len(packet)
                count[1] += 1
                count[2] += _carries(packet)
                due.append((time.monotonic() + delay, devices[other], packet))
        now = time.monotonic()
        while due and due[0][0] <= now:
            _, device, packet = due.popleft()
            # A machine that has no room for it loses it, as any other.
            with contextlib.suppress(OSError):
                os.write(device, packet)


def _packets(device: int) -> Iterator[bytes]:
    for _ in range(_AT_ONCE):
        try:
            yield os.read(device, 1 << 16)
        except OSError:
            return


if __name__ == "__main__":
    _switch(sys.argv[1:])
