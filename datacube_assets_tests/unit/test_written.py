"""Tables that were just written are taken from memory, but never in place of another file."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacube_assets.storage.lake import DamagedError, Lake, LakeTable, MissingTableError
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.written import WRITTEN, Written

TABLE = pa.table({"feature": pa.array(["b", "a", "b"]).dictionary_encode(), "value": [1.0, None, 3.0]})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(open_store(tmp_path.as_uri()), remembers=True)


def _written(lake: Lake) -> tuple[LakeTable, Path]:
    file = lake.write_file("runs/toy/one/cells/v", "month-00000", TABLE)
    table = LakeTable("runs/toy/one/cells/v", "v", (file,))
    path = lake.store.local_path(table.keys()[0])
    assert path is not None
    return table, path


def _empty_files(folder: Path, count: int) -> list[Path]:
    paths = [folder / str(number) for number in range(count)]
    for path in paths:
        path.touch()
    return paths


def test_a_table_comes_from_memory_while_a_run_is_under_way_and_from_its_file_else(lake: Lake) -> None:
    with WRITTEN.kept():
        table, path = _written(lake)
        assert lake.read(table, "month-00000") is TABLE
        assert lake.read(table, "month-00000", ["value"]).equals(TABLE.select(["value"]))
        assert lake.as_stored().read(table, "month-00000") is not TABLE
        assert lake.as_stored().read(table, "month-00000").equals(TABLE)
        # Each run lets go of what it wrote with the last one that is under way.
        with WRITTEN.kept():
            pass
        assert WRITTEN.table(path) is TABLE
    assert WRITTEN.table(path) is None
    assert lake.read(table, "month-00000").equals(TABLE)
    _written(lake)
    assert WRITTEN.table(path) is None


def test_a_file_that_was_replaced_or_is_gone_is_read_or_missed_as_ever(lake: Lake) -> None:
    other = pa.table({"feature": pa.array(["c"]).dictionary_encode(), "value": [9.0]})
    with WRITTEN.kept():
        table, path = _written(lake)
        pq.write_table(other, path)
        assert lake.read(table, "month-00000").equals(other)
        path.unlink()
        with pytest.raises(MissingTableError):
            lake.read(table, "month-00000")


def test_the_oldest_tables_go_first_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    paths = _empty_files(tmp_path, 3)
    written = Written(2 * TABLE.nbytes)
    with written.kept():
        for path in paths:
            written.keep(path, TABLE)
        assert [written.table(path) is not None for path in paths] == [False, True, True]
        large = Written(TABLE.nbytes - 1)
        with large.kept():
            large.keep(paths[0], TABLE)
            assert large.table(paths[0]) is None


def test_nothing_is_kept_of_what_is_not_a_folder_and_a_lake_can_still_be_sent(lake: Lake) -> None:
    with WRITTEN.kept():
        WRITTEN.keep(None, TABLE)
        assert WRITTEN.table(None) is None
        assert pickle.loads(pickle.dumps(lake)) == lake


def test_a_passing_lake_holds_tables_while_there_is_room_and_stores_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WRITTEN, "_most", TABLE.nbytes)
    passing = Lake(open_store(tmp_path.as_uri()), remembers=True, passing=True)
    with WRITTEN.kept():
        table, path = _written(passing)
        assert path.read_bytes() == b""
        assert passing.is_whole(table)
        assert passing.read(table, "month-00000") is TABLE
        assert passing.as_stored().read(table, "month-00000", ["value"]).equals(TABLE.select(["value"]))
        assert passing.schema(table, "month-00000") == TABLE.schema
        file = passing.write_file("runs/toy/one/cells/v", "year-00000", TABLE)
        assert file.bytes > 0
        table = LakeTable(table.folder, "v", (*table.files, file))
        assert passing.is_whole(table)
        assert passing.read(table, "year-00000").equals(TABLE)
        assert passing.schema(table, "year-00000") == TABLE.schema
    # Nothing of it can be read any more: it is for one run.
    with pytest.raises(DamagedError):
        passing.read(table, "month-00000")


def test_what_is_held_gives_way_to_nothing_that_is_kept(tmp_path: Path) -> None:
    paths = _empty_files(tmp_path, 4)
    written = Written(2 * TABLE.nbytes)
    with written.kept():
        written.keep(paths[0], TABLE)
        written.keep(paths[1], TABLE)
        assert written.hold(paths[2], TABLE), "what is only kept makes room"
        written.keep(paths[3], TABLE)
        assert [written.table(path) is not None for path in paths] == [False, False, True, True]
        assert written.hold(paths[0], TABLE)
        assert not written.hold(paths[1], TABLE)
        written.keep(paths[3], TABLE)
        assert [written.table(path) is not None for path in paths] == [True, False, True, False]
        assert not written.hold(None, TABLE)
        # A step that is repeated writes its files again; what takes the place of a held one is not held.
        assert written.hold(paths[0], TABLE)
        written.keep(paths[0], TABLE)
        assert written.hold(paths[1], TABLE)
        assert [written.table(path) is not None for path in paths] == [False, True, True, False]
    assert not written.hold(paths[0], TABLE), "no run is under way"
