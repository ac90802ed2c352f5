"""The commands that the pages name, and a folder like a checkout in which they can be executed.

Reading pages and starting commands belongs here; which command is executed by which test is in
`test_commands_of_pages.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datacube_assets_tests.environment import OURS
from datacube_assets_tests.integration.system import wait_for

ROOT = Path(__file__).parents[2]
README = "README.md"
TOUR = "docs/tour.md"
PAGES = [
    *(README, "infra/README.md"),
    *sorted(
        str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if "reference" not in path.parts
    ),
]
"""All pages that are written by hand."""
PROGRAMS = frozenset(
    (
        *("aws", "cd", "curl", "dagster", "dask", "datacube", "docker", "export", "head", "helm", "install"),
        *("kubectl", "make", "pg_dump", "pip", "python", "sudo", ".venv/bin/datacube", ".venv/bin/python"),
    )
)
"""How commands begin where other things may stand as well."""

_FENCED = re.compile(
    r"^(?: *)(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<block>.*?)^ *(?P=fence)$", re.MULTILINE | re.DOTALL
)
_INLINE = re.compile(r"`([^`\n]+)`")


def _blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of every block."""
    return [(found["language"], found["block"]) for found in _FENCED.finditer(text_of(page))]


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def _lines(block: str) -> Iterator[str]:
    """The command lines of a block: what a backslash or a quotation continues is one line."""
    line = ""
    for part in re.sub(r"\\\n\s*", "", block).splitlines():
        line = f"{line} {part.strip()}" if line else part.strip()
        try:
            shlex.split(line, comments=True)
        except ValueError:
            continue  # A quotation is still open.
        if line:
            yield line
        line = ""
    assert not line, f"a quotation does not end: {line}"


def _plain(line: str) -> str:
    """A command line without its comment and without spaces that only align it."""
    return re.sub(r" {2,}", " ", re.sub(r" {2,}#.*$", "", line)).strip()


def fenced_commands(page: str) -> list[str]:
    """The command lines in the blocks of a page.

    A block without a language holds nothing but commands. In a block of text, commands are the lines that
    begin like one; what a column of explanations says beside them is left out.
    """
    found = []
    for language, block in _blocks(page):
        if language in ("", "sh", "bash", "console"):
            found += [_plain(line) for line in _lines(block)]
        elif language == "text":
            lines = [line.strip() for line in block.splitlines()]
            found += [re.split(r" {2,}", line)[0] for line in lines if _program(line) in PROGRAMS]
    return found


def inline_commands(page: str) -> list[str]:
    """The commands in the sentences and tables of a page."""
    spans = _INLINE.findall(_FENCED.sub("", text_of(page)).replace(r"\|", "|"))
    return [span for span in spans if " " in span and _program(span) in PROGRAMS]


def _program(line: str) -> str:
    return line.split(maxsplit=1)[0] if line.strip() else ""


def answers(page: str, head: str) -> str:
    """What a page shows in the block of text that begins like this."""
    (block,) = (block for _, block in _blocks(page) if block.startswith(head))
    return block


# --- executing -------------------------------------------------------------------------------------


def make_checkout(folder: Path) -> Path:
    """Make a folder like a checkout that is set up, in which commands may leave what they like."""
    for name in (
        *("Makefile", "pyproject.toml", "workspace.yaml", "README.md"),
        *("datacube_assets", "datacube_assets_tests", "benchmarks", "infra", "docs"),
    ):
        (folder / name).symlink_to(ROOT / name)
    # The environment that these tests run in, whichever it is.
    environment = folder / ".venv"
    environment.mkdir()
    (environment / "bin").symlink_to(Path(sys.executable).parent)
    for name in ("lib", "lib64", "pyvenv.cfg"):
        if (Path(sys.prefix) / name).exists():
            (environment / name).symlink_to(Path(sys.prefix) / name)
    (environment / ".installed").touch()
    return folder


def nothing_set(checkout: Path) -> dict[str, str]:
    """The environment of somebody who has set nothing, and says `datacube` for `.venv/bin/datacube`."""
    ours = (*OURS, "AWS_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{checkout / '.venv' / 'bin'}:{kept['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true"}


def run(
    command: str, folder: Path, environment: Mapping[str, str], *, status: int = 0, seconds: float = 240
) -> str:
    """What a command prints; AssertionError when its exit status is another one."""
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Running:
    """A command that goes on until it is interrupted."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def says(self) -> str:
        return self.output.read_text(errors="replace")

    def wait(self, words: str, seconds: float = 90) -> str:
        """Wait until it has printed this; returns all it has printed."""

        def told() -> bool:
            assert self.process.poll() is None or words in self.says, self.says
            return words in self.says

        wait_for(told, words, seconds)
        return self.says


@contextlib.contextmanager
def running(
    command: str,
    folder: Path,
    environment: Mapping[str, str],
    output: Path,
) -> Iterator[Running]:
    """Start a command in a terminal of its own; end it with Ctrl-C, and see that all of it ends."""
    with (
        output.open("wb") as file,
        subprocess.Popen(
            ["bash", "-ec", command],
            cwd=folder,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Running(process, output)
        finally:
            _interrupt(process)


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C for all processes of a terminal; AssertionError when some have to be killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        end = time.monotonic() + 40
        while time.monotonic() < end:
            process.poll()  # It would be counted until somebody has waited for it.
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"Ctrl-C does not end {process.args!r}")
