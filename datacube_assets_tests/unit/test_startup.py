"""Starting quickly leaves nothing behind but speed."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys

import pytest

from datacube_assets.orchestration.startup import importing


def test_the_collector_rests_while_importing_and_works_again_afterwards() -> None:
    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_works_again_after_a_module_that_cannot_be_imported() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def test_the_help_of_the_command_imports_neither_dagster_nor_anything_that_computes() -> None:
    program = (
        "import sys; from datacube_assets.cli import main\n"
        "try: main(['publish', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'dagster', 'numpy', 'pandas', 'polars', 'pyarrow', 'dask', 'obstore', 'httpx'}\n"
        "heavy |= {'pydantic', 'rich', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_process_of_a_run_imports_no_other_part_of_dagsters_command_line() -> None:
    program = (
        "import sys, datacube_assets.orchestration.run_worker as run\n" + "print('dagster' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", "it imports with the collector at rest, so not before"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_memory_that_is_freed_is_kept_for_the_next_array() -> None:
    program = (
        "import sys; from datacube_assets.orchestration.startup import keep_memory\n"
        "if 'keep' in sys.argv: keep_memory()\n"
        "import numpy as np, resource\n"
        "for _ in range(20): [np.ones(200_000) for _ in range(40)]\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    )
    faults = [
        int(subprocess.run([sys.executable, "-c", program, how], capture_output=True, check=True).stdout)
        for how in ("keep", "as it is")
    ]
    assert faults[0] < faults[1] / 2, faults


def test_arrow_does_without_pandas_until_it_is_asked_for_a_data_frame() -> None:
    program = (
        "import sys; from datacube_assets.orchestration.startup import spare_imports\n"
        "spare_imports()\n"
        "import httpx, numpy as np, pyarrow as pa\n"
        "array = pa.array(np.array([1.5, np.nan]), from_pandas=True)\n"
        "assert np.isnan(array.to_numpy(zero_copy_only=False)[1])\n"
        "pa.chunked_array([pa.array(['a', None])]).to_numpy()\n"
        "print(sorted({'pandas', 'rich', 'pygments'} & set(sys.modules)), array.null_count)\n"
        "print(len(pa.table({'a': array}).to_pandas()), 'pandas' in sys.modules)\n"
        "import pandas as pd; print(pa.array(pd.Series([1.5, None])).null_count)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["[] 1", "2 True", "1"]
