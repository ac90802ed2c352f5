"""A walk through the operations on one datacube, at random, and a simple model of what has to stand then.

The model knows which input stands, or that nothing does; after every step, what the bucket holds and what the
commands tell has to be that. Where a step broke off, what stands is one of those before and after it, or
nothing. Kept in `test_sequences.py`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from click.testing import Result

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.operations.check import TABLES as MADE
from datacube_assets.partitions import model_runs
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import RESULTS_ASSET, manifest
from datacube_assets.storage.requests import leave_request
from datacube_assets_tests.integration.crashing import Nth, command, watching
from datacube_assets_tests.integration.operating import KEY, Place
from datacube_assets_tests.integration.support import House, checksums, dagster_storage, rows

RUN = ModelRun.from_key(KEY)
TABLES = tuple(asset.key.path[-1] for asset in MADE)
"""From what was asked for to the last of the tables."""
RESULTS = "results/results.json"
BROKEN_DOWN: Mapping[str, Any] = {"qualifier_map": {"rain": ["crop"]}}
INPUTS: Mapping[str, tuple[pa.Table, Mapping[str, Any]]] = {
    "first": (rows(crop=list("abab")), BROKEN_DOWN),
    "changed": (rows(crop=list("abab"), value=[1.0, 2.0, 3.0, 9.0]), BROKEN_DOWN),
    "less": (rows(country=["Kenya", "Chad"] * 2, crop=list("abca")).slice(0, 3), BROKEN_DOWN),
    "few values": (
        rows(crop=list("abab")),
        {**BROKEN_DOWN, "qualifier_thresholds": {"max_count": 1}},
    ),
    "no map": (rows(feature=["rain", "wind"] * 2, lat=None, lng=None), {}),
}
"""What is published in turn: rows, and fields of the request."""
OPTIONS = {"qualifier_map": "--qualifier-map", "qualifier_thresholds": "--thresholds"}
"""The option of the command that says a field of the request."""


@dataclass(frozen=True)
class Inputs:
    """The parts of inputs, and the objects that a home of its own publishes from each."""

    folder: Path
    objects: dict[str, dict[str, str]] = field(default_factory=dict)

    def part(self, name: str) -> Path:
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            pq.write_table(INPUTS[name][0], path)
        return path

    def request(self, name: str) -> DatacubeRequest:
        ids = {"model_id": RUN.model_id, "run_id": RUN.run_id, "data_paths": [str(self.part(name))]}
        return DatacubeRequest.model_validate({**ids, **INPUTS[name][1]})

    def arguments(self, name: str, *more: str) -> list[str]:
        """The command that publishes an input."""
        options = [f"{OPTIONS[field]}={json.dumps(value)}" for field, value in INPUTS[name][1].items()]
        ids = ["--model-id", RUN.model_id, "--run-id", RUN.run_id]
        return ["publish", str(self.part(name)), *ids, *options, "--quiet", *more]

    def published(self, name: str) -> dict[str, str]:
        """MD5 by key of the objects of an input."""
        if name not in self.objects:
            alone = Place(self.folder / f"home of {name}")
            done = alone.run(*self.arguments(name))
            assert done.exit_code == 0, done.output
            self.objects[name] = checksums(alone.bucket / RUN.prefix)
        return self.objects[name]


@dataclass
class Walk:
    """One home, and what is known of it."""

    inputs: Inputs
    folder: Path
    seed: int
    names: tuple[str, ...] = tuple(INPUTS)
    standing: str | None = None
    is_ours: bool = True
    """Whether nobody else has published into the bucket since we did."""
    versions: dict[str, str] = field(default_factory=dict)
    """The input of each version, by what it was made from."""
    listed: list[dict[str, Any]] = field(default_factory=list)
    """What the history says, after the last step."""
    steps: list[str] = field(default_factory=list)
    died: bool = False
    """Whether the last run that wanted to publish came to no end."""

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.place = Place(self.folder / "home")
        self.lake = self.folder / "home" / "lake"
        self.bucket = self.folder / "home" / "buckets" / "models"
        self.keep = 3

    # --- what has to be so -----------------------------------------------------------------------

    def step(self, name: str) -> None:
        """Take a step, and look at everything. Raises AssertionError, with the way that led there."""
        self.steps.append(name)
        try:
            getattr(self, name.replace(" ", "_"))()
            self.look()
        except AssertionError as error:
            raise AssertionError(f"seed {self.seed}: {', '.join(self.steps)}: {error}") from error

    def walk(self, ways: Mapping[str, int], length: int) -> None:
        """Take steps, each as likely as its number says."""
        for name in self.dice.choices(list(ways), list(ways.values()), k=length):
            self.step(name)

    def run(self, *arguments: str) -> Result:
        """Run a command, which never ends in an error of ours."""
        with mock.patch.dict(os.environ, self.environment()):
            done = self.place.run(*arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        assert "Traceback" not in done.output, done.output
        return done

    def json(self, *arguments: str) -> Any:
        with mock.patch.dict(os.environ, self.environment()):
            return self.place.json(*arguments)

    def environment(self) -> dict[str, str]:
        return {
            "DATACUBE_HOME": str(self.place.home),
            "DATACUBE_LAKE": str(self.lake),
            "DATACUBE_MODELS_BUCKET": str(self.bucket),
            "DATACUBE_KEEP_VERSIONS": str(self.keep),
            "DATACUBE_PICTURES": "no",
        }

    def seen(self) -> str | None:
        """The input whose objects, all of them and no other, are in the bucket; None without results.json."""
        objects = checksums(self.bucket / RUN.prefix) if self.bucket.exists() else {}
        if RESULTS not in objects:
            return None
        of = [name for name in self.names if objects == self.inputs.published(name)]
        assert of, "results.json stands over a mixture"
        return of[0]

    def is_one_of(self, names: Set[str | None]) -> None:
        """After something that broke off: what stands is what stood, or what was to stand, or nothing."""
        now = self.seen()
        assert now in names | {self.standing, None}, f"{now} stands"
        self.died = True
        self.is_ours = self.is_ours or (now is not None and now != self.standing)
        self.standing = now

    def is_forgotten(self) -> bool:
        """Whether a run died when it had forgotten what was published, and not deleted results.json yet."""
        lake = Lake(open_store(f"file://{self.lake}", ""))
        return self.died and manifest(lake, RUN, RESULTS_ASSET) is None

    def look(self) -> None:
        assert self.seen() == self.standing
        told = self.run("history", KEY, "--json")
        self.listed = self.json("history", KEY)["versions"] if told.exit_code == 0 else []
        published = [one for one in self.listed if one["state"] == "published"]
        verified = self.run("verify", KEY).exit_code == 0
        (state,) = {one["state"] for one in self.json("list") if one["key"] == KEY} or {""}
        assert self.run("inspect", KEY).exit_code in (0, 1, 2)
        if not self.is_ours:
            assert not verified, "another home has published, and all is well"
            return
        if self.standing is None or self.is_forgotten():
            assert (verified, published) == (False, [])
            assert state != "READY"
            return
        assert verified, self.run("verify", KEY).output
        assert len(published) == 1, self.listed
        assert state in ("READY", "FAILED", "ORPHANED", "QUEUED"), state
        self.versions[published[0]["input_version"]] = self.standing
        values = INPUTS[self.standing][0].filter(pc.field("feature") == "rain")["value"].to_pylist()
        explained = self.json("explain", KEY, "--feature", "rain", "--time", "2020")
        assert explained["figure"]["value"] == sum(values)
        assert sorted(row["value"] for row in explained["rows"]) == sorted(values)

    # --- steps -----------------------------------------------------------------------------------

    def publish(self, *more: str) -> None:
        name = self.dice.choice(self.names)
        done = self.run(*self.inputs.arguments(name, *more))
        assert done.exit_code == 0, done.output
        self.standing, self.is_ours, self.died = name, True, False

    def publish_from_scratch(self) -> None:
        self.publish("--from-scratch")

    def publish_and_be_killed(self) -> None:
        name = self.dice.choice(self.names)
        self._killed(self.inputs.arguments(name), {name})

    def publish_and_fail(self) -> None:
        name = self.dice.choice(self.names)
        left = [self.dice.choice((self.dice.randint(1, 40), self.dice.randint(1, 400)))]

        def passed(moment: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise OverflowError(f"nobody expects this at {moment}")

        with mock.patch.dict(os.environ, self.environment()), watching(passed):
            self.place.run(*self.inputs.arguments(name))
        self.is_one_of({name})

    def make_tables_only(self) -> None:
        """As a run that is refused by a check, or a person in the UI."""
        name, number = self.dice.choice(self.names), self.dice.choice((1, 2, 3, 4, len(TABLES)))
        store = open_store(f"file://{self.lake}", "")
        leave_request(Lake(store), self.inputs.request(name))
        with mock.patch.dict(os.environ, self.environment()), dagster_storage(self.place.home) as instance:
            instance.add_dynamic_partitions(str(model_runs.name), [KEY])
            House(self.place.home, Settings.from_environment(), instance).materialize(RUN, *TABLES[:number])

    def roll_back(self) -> None:
        kept = [one for one in self.listed if one["kept"]]
        if not kept:
            assert self.run("rollback", KEY, "--yes").exit_code == 1
            return
        one = self.dice.choice(kept)
        done = self.run("rollback", KEY, "--yes", "--to", str(one["number"]))
        if done.exit_code:
            assert "is what is published" in done.output, done.output
            return
        wanted = self.versions[one["input_version"]]
        self.standing, self.is_ours, self.died = self.seen(), True, False
        assert self.standing == wanted

    def roll_back_and_be_killed(self) -> None:
        there = [one["input_version"] for one in self.listed if one["state"] == "published"]
        kept = [one for one in self.listed if one["kept"] and one["input_version"] not in there]
        if kept:
            one = self.dice.choice(kept)
            arguments = ["rollback", KEY, "--yes", "--to", str(one["number"])]
            self._killed(arguments, {self.versions[one["input_version"]]})

    def withdraw(self) -> None:
        more = [option for option in ("--tables", "--parts", "--tell") if self.dice.random() < 0.25]
        done = self.run("withdraw", KEY, "--yes", *more)
        if done.exit_code:
            assert "is not known here" in done.output, done.output
            assert self.standing is None or not self.is_ours
            return
        assert not (self.bucket / RUN.prefix).exists()
        self.standing, self.is_ours = None, True

    def collect(self) -> None:
        self.json("gc", "--older-than", "0m", "--delete")
        left = self.json("gc", "--older-than", "0m")
        assert left["found"] == []
        if self.is_forgotten():
            self.standing = self.seen()

    def keep_others(self) -> None:
        self.keep = self.dice.choice((1, 2, 3))

    def forget_the_partition(self) -> None:
        with dagster_storage(self.place.home) as instance:
            if instance.has_dynamic_partition(str(model_runs.name), KEY):
                instance.delete_dynamic_partition(str(model_runs.name), KEY)

    def lose_dagster(self) -> None:
        shutil.rmtree(self.place.home / "dagster", ignore_errors=True)

    def move_the_lake(self) -> None:
        if self.lake.exists():
            self.lake = self.lake.rename(self.place.home / f"lake {len(self.steps)}")

    def let_another_home_publish(self) -> None:
        name = self.dice.choice(self.names)
        with mock.patch.dict(os.environ, {"DATACUBE_MODELS_BUCKET": str(self.bucket)}):
            done = Place(self.folder / "another").run(*self.inputs.arguments(name))
        assert done.exit_code == 0, done.output
        self.standing, self.is_ours = name, False

    def take_elsewhere(self) -> None:
        archive = self.folder / "archive.tar"
        done = self.run("export", KEY, str(archive))
        if self.standing is None or not self.is_ours or self.is_forgotten():
            return
        assert done.exit_code == 0, done.output
        there = Place(self.folder / f"elsewhere {len(self.steps)}")
        assert there.run("import", str(archive)).exit_code == 0
        assert checksums(there.bucket / RUN.prefix) == self.inputs.published(self.standing)
        verified = there.run("verify", KEY)
        assert verified.exit_code == 0, verified.output

    def compare_versions(self) -> None:
        kept = [one for one in self.listed if one["kept"]]
        if not kept:
            return
        before, after = self.dice.choice(kept), self.dice.choice(kept)
        told = self.json("diff", f"{KEY}@{before['number']}", f"{KEY}@{after['number']}")
        same = before["input_version"] == after["input_version"]
        figures = told["figures"]
        assert (figures["changed"] + figures["came"] + figures["went"] == 0) == same, figures

    def _killed(self, arguments: list[str], names: Set[str]) -> None:
        at = self.dice.choice((self.dice.randint(1, 40), self.dice.randint(1, 400)))
        command(arguments, {**self.environment(), "DATACUBE_DASK_WORKERS": "1"}, Nth(at))
        self.is_one_of(names)


WAYS: Mapping[str, int] = {
    "publish": 6,
    "publish from scratch": 1,
    "publish and be killed": 4,
    "publish and fail": 3,
    "make tables only": 3,
    "roll back": 4,
    "roll back and be killed": 2,
    "withdraw": 2,
    "collect": 3,
    "keep others": 2,
    "forget the partition": 1,
    "lose dagster": 1,
    "move the lake": 1,
    "let another home publish": 1,
    "take elsewhere": 2,
    "compare versions": 4,
}
"""Steps, and how likely each is."""
