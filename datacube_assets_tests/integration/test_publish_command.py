"""The `datacube` command as a user meets it: what it prints, how it exits, what it leaves behind.

A process of its own costs two seconds of imports, so most bad inputs are tried in this one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacube_assets.cli import main
from datacube_assets_tests.environment import nothing_set
from datacube_assets_tests.integration.support import Datacube, begin_home, rows

COMMAND = Path(sys.executable).parent / "datacube"


@dataclass
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def home(quick_folder: Path) -> Path:
    return quick_folder / "home"


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return write(tmp_path / "part.parquet.gzip", rows())


def write(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path, compression="gzip")
    return path


def start(*arguments: object, home: Path) -> Answer:
    """Run the command as a process of its own."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "DATACUBE_LAKE")
    }
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        env=environment | {"DATACUBE_HOME": str(home), "DATACUBE_PICTURES": "no"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


Run = Callable[..., Answer]


@pytest.fixture
def first_run(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; there is no home folder yet."""
    for name in ("DAGSTER_HOME", "DATACUBE_HOME"):
        monkeypatch.setenv(name, "restored after the test, whatever the command sets")
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATACUBE_PICTURES", "no")
    monkeypatch.setenv("DATACUBE_HOME", str(home))

    def in_process(*arguments: object) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main.main([str(one) for one in arguments], prog_name="datacube")
        out, err = capfd.readouterr()
        return Answer(int(exit_.value.code or 0), out, err)

    return in_process


@pytest.fixture
def run(home: Path, first_run: Run) -> Run:
    """Runs the command in this process and a home folder that is there."""
    begin_home(home)
    return first_run


def published(home: Path) -> list[Path]:
    return [path for path in (home / "buckets").rglob("*") if path.is_file()]


# --- success ---------------------------------------------------------------------------------------


def test_a_run_is_published_and_the_command_says_what_and_where(home: Path, part: Path) -> None:
    answer = start("publish", part, "--model-id", "model", "--run-id", "run", home=home)
    assert (answer.code, answer.err) == (0, "")
    datacube = Datacube.read(home / "buckets" / "models", "model", "run")
    datacube.check()
    lines = answer.out.splitlines()
    assert lines[0] == "model run"
    steps = [line for line in lines if re.match(r"  [ \d]\d of 17  \w+ ", line)]
    assert len(steps) == 17
    assert "dojo_request" in steps[0]
    assert "pipeline_results" in steps[-1]
    count = len(datacube.objects)
    size = sum(len(body) for body in datacube.objects.values()) / 1e6
    assert re.search(
        rf"^  {count} objects, {size:.1f} MB in \d+\.\d s: {count} written, 0 unchanged, 0 deleted$",
        answer.out,
        re.M,
    )
    assert f"Published  {home}/buckets/models/model/run\n" in answer.out
    assert f"Tables     {(home / 'lake').as_uri()}\n" in answer.out


def test_a_dataset_goes_to_the_indicators_bucket_with_all_options_heeded(tmp_path: Path, run: Run) -> None:
    values = rows(
        timestamp=[None, 1_577_836_800, 1_580_515_200, 1_580_515_201],
        market=["a", "b", "a", "b"],
        people=[1.0, 3.0, 1.0, 3.0],
    )
    (tmp_path / "map.json").write_text('{"rain": ["market"]}')
    answer = run(
        *("publish", write(tmp_path / "prices.parquet.gzip", values), "--model-id", "prices", "--indicator"),
        *(
            "--qualifier-map",
            f"@{tmp_path / 'map.json'}",
            "--weight-column",
            "people",
            "--timestamp-unit",
            "s",
        ),
        *(
            "--thresholds",
            '{"max_count": 5, "regional_timeseries_max_level": 0}',
            "--fill-timestamp",
            "86400000",
        ),
        *("--raw-count-threshold", "3", "--lake", tmp_path / "lake"),
        *(
            "--indicators-bucket",
            (tmp_path / "indicators").as_uri(),
            "--models-bucket",
            tmp_path / "models",
            "-q",
        ),
    )
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    datacube = Datacube.read(tmp_path / "indicators", "prices", "indicator")
    datacube.check()
    assert datacube.info["has_weights"]
    assert datacube.info["num_missing_ts"] == 1
    assert not datacube.keys("raw.csv")
    series = datacube.csv("month/rain/timeseries/qualifiers/market/s_wavg_t_wavg.csv")
    assert [line["timestamp"] for line in series] == ["0", "1577836800000", "1580515200000"]
    assert datacube.keys("regional/country/timeseries/qualifiers/market/b/")
    assert not datacube.keys("regional/admin1/timeseries/qualifiers/")
    limits = datacube.json("raw/rain/info/qualifier_counts.json")["thresholds"]
    assert limits == {"max_count": 5, "regional_timeseries_count": 100, "regional_timeseries_max_level": 0}
    assert (tmp_path / "lake" / "runs" / "prices" / "indicator").is_dir()
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("command", [(), ("publish",), ("demo",), ("dev",)], ids=" ".join)
def test_help_says_what_a_command_does_and_is_quick_about_it(command: Sequence[str], home: Path) -> None:
    answer = start(*command, "--help", home=home)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: {' '.join(('datacube', *command))}")
    assert max(map(len, answer.out.splitlines())) <= 100
    assert not home.exists()


def test_help_of_publish_names_every_option_of_the_job(run: Run) -> None:
    text = run("publish", "--help").out
    for option in (
        *(
            "--model-id ID",
            "--run-id ID",
            "--indicator",
            "--qualifier-map JSON|@FILE",
            "--weight-column NAME",
        ),
        *(
            "--thresholds JSON",
            "--fill-timestamp MS",
            "--raw-count-threshold N",
            "--timestamp-unit [s|ms|us|ns]",
        ),
        *("--lake URL", "--models-bucket URL", "--indicators-bucket URL"),
    ):
        assert option in text


def test_an_object_that_got_lost_ends_the_command_until_it_is_published_from_scratch(
    home: Path, part: Path, run: Run
) -> None:
    command = ("publish", part, "--model-id", "model", "--run-id", "run")
    assert run(*command).code == 0
    lost = home / "buckets/models/model/run/month/rain/timeseries/global/global.csv"
    lost.unlink()
    answer = run(*command)
    assert answer.code == 1
    assert "Error: model:run is not published: its datacube would mislead" in answer.err
    assert "raw_data, objects_as_recorded: Of the objects 1 are missing" in answer.err
    assert "docs/checks.md" in answer.err
    assert run(*command, "--from-scratch").code == 0
    assert lost.exists()


# --- bad input -------------------------------------------------------------------------------------


def test_an_interrupted_command_says_so_in_a_line_and_goes_on_when_it_is_given_again(
    home: Path, part: Path
) -> None:
    """It ended with a traceback of a hundred lines, and with the status of a refusal."""
    # Where tests are started beside something else, the interrupt may be ignored.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    begin = f"{heeding}; from datacube_assets.cli import main; main()"
    command = [sys.executable, "-c", begin, "publish", str(part)]
    command += ["--model-id", "m", "--run-id", "interrupted", "--home", str(home)]
    process = subprocess.Popen(
        command,
        env=nothing_set(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any("raw_dojo_output" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Interrupted: m:interrupted is not complete. The same command goes on."
    assert "Traceback" not in said
    listed = start("list", "--json", home=home)
    assert "It was interrupted. Publish it again" in listed.out
    assert start("publish", part, "--model-id", "m", "--run-id", "interrupted", home=home).code == 0


def assert_refused(answer: Answer, home: Path, *said: str) -> None:
    """One clear line on stderr that says all of this; nothing published."""
    assert answer.code != 0
    lines = answer.err.splitlines()
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in answer.out
    for words in said:
        assert words in lines[0]
    assert published(home) == []


RUN = ("--model-id", "model", "--run-id", "run")


def test_a_file_that_does_not_exist_is_named(tmp_path: Path, home: Path) -> None:
    answer = start("publish", tmp_path / "nowhere.parquet", *RUN, home=home)
    missing = f"run model:run, file {tmp_path}/nowhere.parquet: the file cannot be opened"
    assert_refused(answer, home, missing, "Check the path")


def test_without_files_the_usage_is_shown(home: Path) -> None:
    answer = start("publish", *RUN, home=home)
    assert answer.code == 2
    assert answer.err.splitlines()[0].startswith("Usage: datacube publish ")
    assert answer.err.splitlines()[-1] == "Error: Missing argument 'PART...'."
    assert not home.exists()


def test_only_text_parts_are_refused(tmp_path: Path, home: Path, run: Run) -> None:
    part = write(tmp_path / "run_model_str.1.parquet.gzip", rows())
    answer = run("publish", part, *RUN)
    assert_refused(answer, home, "run model:run: all parts hold text values (`_str`)", "numeric output")


def test_zero_rows_are_refused(tmp_path: Path, home: Path, run: Run) -> None:
    part = write(tmp_path / "empty.parquet", rows().slice(0, 0))
    answer = run("publish", part, *RUN)
    assert_refused(
        answer, home, "run model:run: its parts have no rows", "Check that the run wrote any output"
    )


@pytest.mark.parametrize("column", ["feature", "value", "timestamp"])
def test_a_missing_column_is_named_with_those_there_are(
    column: str, tmp_path: Path, home: Path, run: Run
) -> None:
    part = write(tmp_path / "part.parquet", rows(**{column: None}))
    answer = run("publish", part, *RUN)
    assert_refused(
        answer,
        home,
        f"run model:run, file {part}, column {column}: there is no column {column}",
        "Write the columns timestamp, feature, value; this file has ",
        "country, admin1, lat, lng",
    )


@pytest.mark.parametrize("share", [0.2, 0.999])
def test_a_truncated_file_is_named(share: float, part: Path, home: Path, run: Run) -> None:
    body = part.read_bytes()
    part.write_bytes(body[: int(len(body) * share)])
    answer = run("publish", part, *RUN)
    assert_refused(
        answer, home, f"run model:run, file {part}: it cannot be read as Parquet", "upload completed"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", ("it is empty", "upload completed")),
        (b"timestamp,feature,value\n0,rain,1\n", ("it is text, such as CSV", "to_parquet")),
        (b"\x00\x01 neither\xff", ("it cannot be read as Parquet", "file is Parquet")),
    ],
)
def test_a_file_that_is_no_parquet_is_named(
    body: bytes, said: tuple[str, str], tmp_path: Path, home: Path, run: Run
) -> None:
    part = tmp_path / "part.parquet.gzip"
    part.write_bytes(body)
    answer = run("publish", part, *RUN)
    assert_refused(answer, home, f"run model:run, file {part}: {said[0]}", said[1])


def test_one_bad_part_among_good_ones_is_the_one_that_is_named(
    part: Path, tmp_path: Path, home: Path, run: Run
) -> None:
    bad = write(tmp_path / "bad.parquet", rows(value=["much", "more", "1", "2"]))
    answer = run("publish", part, bad, *RUN)
    assert_refused(answer, home, "run model:run", "column value", "'much'", "`_str` part")


def test_text_that_is_no_time_is_shown(tmp_path: Path, home: Path, run: Run) -> None:
    bad = write(
        tmp_path / "bad.parquet", rows(timestamp=["2020-01-01", "yesterday", "2020-01-02", "2020-01-03"])
    )
    answer = run("publish", bad, *RUN)
    assert_refused(answer, home, f"run model:run, file {bad}, column timestamp", "'yesterday'", "ISO 8601")


@pytest.mark.parametrize("model_id", ["../x", "a/b", "..", ".", "a\nb"])
@pytest.mark.parametrize("option", ["model id", "run id"])
def test_an_id_that_would_leave_its_folder_is_refused(
    option: str, model_id: str, part: Path, home: Path, run: Run
) -> None:
    ids = (
        ("--model-id", model_id, "--run-id", "run")
        if option == "model id"
        else ("--model-id", "m", "--run-id", model_id)
    )
    answer = run("publish", part, *ids)
    assert_refused(
        answer, home, f"the {option} {model_id!r}", f". Give a {option} that is not empty, without `/`"
    )
    assert not [path for path in home.parent.rglob("x*") if "buckets" in path.parts]


@pytest.mark.parametrize("feature", ["..", "a/../b"])
def test_a_feature_that_would_leave_its_folder_is_refused(
    feature: str, tmp_path: Path, home: Path, run: Run
) -> None:
    part = write(tmp_path / "part.parquet", rows(feature=[feature, "rain", "rain", "rain"]))
    answer = run("publish", part, *RUN)
    assert_refused(
        answer,
        home,
        f"run model:run, file {part}, column feature: the feature {feature!r} would leave its folder",
        "Give a feature",
    )


def test_an_unknown_weight_column_is_refused_with_the_columns_there_are(
    tmp_path: Path, home: Path, run: Run
) -> None:
    part = write(tmp_path / "part.parquet", rows(people=[1, 2, 3, 4], crop=["a", "b", "c", "d"]))
    answer = run("publish", part, *RUN, "--weight-column", "persons")
    assert_refused(
        answer, home, "run model:run: the weight column 'persons'", "Name one of these: crop, people"
    )


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--qualifier-map", '{"rain": ["crop"', "--qualifier-map is no JSON"),
        ("--qualifier-map", "rain=crop", "--qualifier-map is no JSON"),
        ("--qualifier-map", '["rain"]', "--qualifier-map: Input should be a valid dictionary (got ['rain'])"),
        (
            "--qualifier-map",
            '{"rain": "crop"}',
            "--qualifier-map 'rain': Input should be a valid list (got 'crop')",
        ),
        (
            "--qualifier-map",
            '{"rain": [1]}',
            "--qualifier-map 'rain' 0: Input should be a valid string (got 1)",
        ),
        ("--qualifier-map", "@nowhere.json", "--qualifier-map: nowhere.json cannot be read"),
        ("--thresholds", "{'max_count': 1}", "--thresholds is no JSON"),
        (
            "--thresholds",
            '{"max_count": -1}',
            "--thresholds 'max_count': Input should be greater than or equal to 0",
        ),
        (
            "--thresholds",
            '{"max_count": "many"}',
            "--thresholds 'max_count': Input should be a valid integer",
        ),
        ("--thresholds", "[]", "--thresholds: "),
        ("--raw-count-threshold", "-1", "--raw-count-threshold: Input should be greater than or equal to 0"),
    ],
)
def test_a_malformed_option_is_named_with_what_was_given(
    option: str, text: str, said: str, part: Path, home: Path, first_run: Run
) -> None:
    assert_refused(first_run("publish", part, *RUN, option, text), home, said)
    assert not home.exists()


def test_a_misspelled_threshold_is_refused(part: Path, home: Path, run: Run) -> None:
    answer = run("publish", part, *RUN, "--thresholds", json.dumps({"max_counts": 5}))
    assert_refused(answer, home, "--thresholds 'max_counts'")


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (("--model-id", "m"), "give --run-id, or --indicator for a dataset"),
        (("--model-id", "m", "--run-id", "r", "--indicator"), "the run id of a dataset is `indicator`"),
        (("--run-id", "r"), "Missing option '--model-id'"),
        (("--model-id", "m", "--run-id", "r", "--fill-timestamp", "soon"), "'--fill-timestamp': 'soon'"),
        (("--model-id", "m", "--run-id", "r", "--timestamp-unit", "h"), "'--timestamp-unit': 'h'"),
    ],
)
def test_options_that_do_not_go_together_are_explained(
    ids: Sequence[str], said: str, part: Path, home: Path, first_run: Run
) -> None:
    answer = first_run("publish", part, *ids)
    assert answer.code == 2
    assert said in answer.err.splitlines()[-1]
    assert not home.exists()


def test_a_model_run_called_indicator_is_refused(part: Path, home: Path, run: Run) -> None:
    answer = run("publish", part, "--model-id", "m", "--run-id", "indicator")
    assert answer.code != 0
    assert "--indicator" in answer.err.splitlines()[-1]
    assert published(home) == []


@pytest.mark.parametrize("option", ["--lake", "--models-bucket"])
def test_a_store_that_cannot_be_used_is_named(option: str, part: Path, home: Path, run: Run) -> None:
    answer = run("publish", part, *RUN, option, "ftp://host/folder")
    assert_refused(answer, home, "a store of the kind ftp:// cannot be used", "file:// or s3://")


def test_a_home_that_is_a_file_is_named(part: Path, home: Path, first_run: Run) -> None:
    home.write_text("no folder")
    answer = first_run("publish", part, *RUN)
    assert answer.code == 1
    assert len(answer.err.splitlines()) == 1
    assert str(home) in answer.err


def test_publishing_again_writes_nothing_and_a_refused_input_leaves_everything_as_it_is(
    part: Path, tmp_path: Path, home: Path, run: Run
) -> None:
    run("publish", part, *RUN)
    before = Datacube.read(home / "buckets" / "models", "model", "run")
    again = run("publish", part, *RUN)
    assert again.code == 0
    assert f": 0 written, {len(before.objects)} unchanged, 0 deleted\n" in again.out
    bad = write(tmp_path / "bad.parquet", rows(value=["much"] * 4))
    assert run("publish", bad, *RUN).code == 1
    after = Datacube.read(home / "buckets" / "models", "model", "run")
    assert after.hash == before.hash
    assert after.complete
