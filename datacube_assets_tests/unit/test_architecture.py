"""Imports only go down, and the kernels know nothing of what carries them (docs/concepts.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import datacube_assets
import datacube_assets.kernels

PACKAGE = Path(datacube_assets.__file__).parent
LAYERS = (
    "kernels", "redaction", "http_client", "progress", "check_limits", "settings", "dojo", "causemos",
    "partitions", "storage", "read", "resources", "assets", "checks", "orchestration", "sensors",
    "definitions", "gateway", "operations", "view", "development", "cli",
)  # fmt: skip
"""Packages and modules of the root, from the bottom up: each imports itself and what stands before it."""
FOLDER = Path(datacube_assets.kernels.__file__).parent
MODULES = sorted(FOLDER.rglob("*.py"))
ALLOWED = frozenset(("__future__", "numpy", "polars", "pyarrow", *sys.stdlib_module_names))
DRAWING = {"matplotlib", "PIL"}
"""Of arrays a picture is made, which is computing too; imported with the first one."""
STANDARD_BUT_OUTSIDE = frozenset(
    (
        "asyncio",
        "ftplib",
        "http",
        "multiprocessing",
        "shutil",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "urllib",
    )
)
"""Parts of the standard library that talk to the network, to other processes or to files."""
FOREIGN = (
    "dagster", "dask", "distributed", "httpx", "requests", "obstore", "s3fs", "fsspec", "boto3", "botocore",
    "aiobotocore", "starlette", "pandas", "matplotlib",
)  # fmt: skip


def own_imports(module: Path) -> set[str]:
    """The parts of this package that a module imports, inside functions and for types too."""
    parts: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "datacube_assets":
            names = [f"datacube_assets.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("datacube_assets.")}
    return parts - {"__version__"}


def test_every_part_of_the_package_has_its_layer_and_few_modules_stand_at_its_root() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert modules | packages == set(LAYERS)
    assert len(modules) <= 6


@pytest.mark.parametrize("part", LAYERS)
def test_imports_only_go_down(part: str) -> None:
    below = set(LAYERS[: LAYERS.index(part) + 1])
    modules = sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    upwards = {
        f"{path.relative_to(PACKAGE)}: {name}" for path in modules for name in own_imports(path) - below
    }
    assert upwards == set()


def imported(module: Path) -> set[str]:
    """Full names of what a module imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_kernel_imports_only_arrays_the_standard_library_and_other_kernels(module: Path) -> None:
    names = imported(module)
    own = {name for name in names if name.split(".")[0] == "datacube_assets"}
    assert {name for name in own if not name.startswith("datacube_assets.kernels")} == set()
    others = {name.split(".")[0] for name in names - own}
    assert others - ALLOWED - (DRAWING if module.stem == "pictures" else set()) == set()
    assert others & STANDARD_BUT_OUTSIDE == set()


def test_importing_all_kernels_loads_no_orchestration_http_or_storage_library() -> None:
    names = [f"datacube_assets.kernels.{path.stem}" for path in MODULES if path.stem != "__init__"]
    assert len(names) > 10
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(*[name for name in {FOREIGN!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_kernel_opens_by_saying_what_belongs_in_it() -> None:
    docs = {path.name: ast.get_docstring(ast.parse(path.read_text())) for path in MODULES}
    assert [name for name, doc in docs.items() if not doc or len(doc) < 80] == []
