from __future__ import annotations

import json
from dataclasses import asdict, fields

import pyarrow.parquet as pq
import pytest

from analyses.compare import compare, plan
from analyses.outputs import KEY, replaceable, write_tables
from replay.parameters import Parameters
from replay.result import ReportRow, Result, RoundRow, UnsafeRow
from tests.analyses.traces import hidden, race
from tracer import Trace, UsageError


@pytest.fixture
def comparisons(tmp_path):
    paths = [race(tmp_path / "race.trace"), hidden(tmp_path / "hidden.trace")]
    return compare(plan(paths, [], Parameters()))


def test_the_tables_hold_every_row(tmp_path, comparisons):
    write_tables(tmp_path, comparisons, Parameters())
    replays = [replay for one in comparisons for replay in one.replays]
    for name, kind, rows in (
        ("results", Result, [r.result.to_dict() for r in replays]),
        ("rounds", RoundRow, [asdict(row) for r in replays for row in r.rounds]),
        ("reports", ReportRow, [asdict(row) for r in replays for row in r.reports]),
        ("unsafe", UnsafeRow, [asdict(row) for r in replays for row in r.unsafe]),
    ):
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert table.column_names == [field.name for field in fields(kind)]
        assert table.to_pylist() == rows
        assert rows


def test_the_metadata_says_what_made_them(tmp_path, comparisons):
    write_tables(tmp_path, comparisons, Parameters())
    for file in tmp_path.glob("*.parquet"):
        told = json.loads(pq.read_schema(file).metadata[KEY.encode()])
        assert told["parameters"] == json.loads(json.dumps(asdict(Parameters())))
        assert told["traces"] == {
            name: Trace.open(tmp_path / f"{name}.trace").digest for name in ("race", "hidden")
        }


def test_same_input_same_bytes(tmp_path, comparisons):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tables(tmp_path / name, comparisons, Parameters())
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_only_an_earlier_output_is_replaceable(tmp_path, comparisons):
    (tmp_path / "mine").mkdir()
    replaceable(tmp_path / "mine")
    write_tables(tmp_path / "mine", comparisons, Parameters())
    replaceable(tmp_path / "mine")
    replaceable(tmp_path / "not there")
    with pytest.raises(UsageError, match="something else"):
        replaceable(tmp_path)
