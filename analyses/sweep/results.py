"""What a sweep leaves in its folder: the parts as they come, and in the end two tidy tables.

DIR/parts/TRACE-DIGEST/KEY.parquet   the result rows of the tasks of one job, whole or not there
DIR/results.parquet                  all result rows, with the parameters as columns
DIR/tasks.parquet                    every task, and what became of it
"""

from __future__ import annotations

import fcntl
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from analyses.outputs import KEY, RESULTS
from analyses.sweep.plan import Plan, Task, code_version
from analyses.sweep.worker import Outcome
from replay.parameters import Parameters
from replay.result import Result, schema
from tracer.errors import UsageError
from tracer.files import whole_file
from tracer.places import Header

TASKS = "tasks.parquet"
_PARTS, _LOCK = "parts", ".lock"
_ROWS_A_GROUP = 1 << 16

Row = dict[str, Any]


class Folder:
    """The folder of a sweep; `folder` opens one."""

    def __init__(self, path: Path):
        self.path = path

    def known(self, trace: Header) -> set[str]:
        """Return the keys of the trace's tasks that are done."""
        return {
            key.as_py() for table in self._parts(trace, ["task"]) for key in table.column("task")
        }

    def keep(self, trace: Header, outcomes: Sequence[Outcome]) -> None:
        """Write the rows of tasks of one trace, so that they need not be done again."""
        rows = [{"task": one.key, **asdict(row)} for one in outcomes for row in one.rows]
        if not rows:
            return
        place = self.path / _PARTS / trace.digest
        place.mkdir(parents=True, exist_ok=True)
        with whole_file(place / f"{outcomes[0].key}.parquet") as file:
            pq.write_table(pa.Table.from_pylist(rows, schema=_PART), file, compression="zstd")

    def finish(self, plan: Plan, failed: Mapping[str, str], tell: Callable[[Row], None]) -> None:
        """Write the two tables, in the order of the plan; each result row is told.

        failed: key of a task to why it is not done. Holds one trace's rows in memory, and a row
        group.
        """
        metadata = {KEY: json.dumps({"version": code_version()})}
        with whole_file(self.path / RESULTS) as file:
            shape = _RESULTS.with_metadata(metadata)
            with pq.ParquetWriter(file, shape, compression="zstd") as writer:
                for rows in _grouped(self._results(plan, tell)):
                    writer.write_table(pa.Table.from_pylist(rows, schema=shape))
        with whole_file(self.path / TASKS) as file:
            shape = _TASKS.with_metadata(metadata)
            with pq.ParquetWriter(file, shape, compression="zstd") as writer:
                for rows in _grouped(_task_row(task, failed) for task in plan.tasks):
                    writer.write_table(pa.Table.from_pylist(rows, schema=shape))

    def _results(self, plan: Plan, tell: Callable[[Row], None]) -> Iterator[Row]:
        trace, there = None, {}
        for task in plan.tasks:
            if task.trace is not trace:
                trace, there = task.trace, self._rows(task.trace)
            for row in there.get(task.key, ()):
                # A part stands for the trace's bytes: where they lie and their name may change.
                whole = {**row, **_place(task), **columns(task.parameters)}
                tell(whole)
                yield whole

    def _rows(self, trace: Header) -> dict[str, list[Row]]:
        """Return the rows of a trace's parts by task."""
        found: dict[str, list[Row]] = {}
        for table in self._parts(trace, _PART.names):
            by_task: defaultdict[str, list[Row]] = defaultdict(list)
            for row in table.to_pylist():
                by_task[row.pop("task")].append(row)
            found |= by_task
        return found

    def _parts(self, trace: Header, names: list[str]) -> Iterator[pa.Table]:
        """Yield columns of a trace's parts; one that cannot be read is as if it were not there."""
        for file in sorted((self.path / _PARTS / trace.digest).glob("*.parquet")):
            try:
                with pq.ParquetFile(file) as part:
                    yield part.read(columns=names)
            except (pa.ArrowException, OSError):
                continue


@contextmanager
def folder(path: Path) -> Iterator[Folder]:
    """Open or make the folder of a sweep.

    Raises UsageError where something else lies, where nothing can be written, or where another
    sweep is at work.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file; name a directory")
    if path.is_dir() and any(path.iterdir()) and not (path / _PARTS).is_dir():
        raise UsageError(f"{path}: holds something else than a sweep; choose another directory")
    try:
        (path / _PARTS).mkdir(parents=True, exist_ok=True)
        lock = (path / _LOCK).open("w")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written here ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{path}: another sweep is writing here; let it end first") from None
        yield Folder(path)


def columns(parameters: Parameters) -> Row:
    """Return the parameters as columns; what has parts of its own becomes JSON text."""
    found = {
        name: json.dumps(value) if isinstance(value, dict | list | tuple) else value
        for name, value in asdict(parameters).items()
    }
    return {**found, "qemu": None if parameters.qemu is None else str(parameters.qemu)}


def _place(task: Task) -> Row:
    return {"trace": task.trace.name, "path": task.trace.shown, "digest": task.trace.digest}


def _task_row(task: Task, failed: Mapping[str, str]) -> Row:
    problem = failed.get(task.key)
    state = "done" if problem is None else "failed"
    named = {"task": task.key, "strategy": task.name, "state": state, "problem": problem}
    return {**_place(task), **columns(task.parameters), **named}


def _grouped(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == _ROWS_A_GROUP:
            yield group
            group = []
    yield group


def _column(name: str, kind: str) -> pa.Field:
    types = {"int": pa.int64(), "bool": pa.bool_()}
    base = kind.partition(" ")[0]
    return pa.field(name, types.get(base, pa.string()), nullable=kind.endswith("None"))


_RESULT = schema(Result)
#: Parameters that a result row has anyway.
_IN_RESULT = [one.name for one in fields(Parameters) if one.name in _RESULT.names]
_PARAMETERS = pa.schema(
    [_column(f.name, str(f.type)) for f in fields(Parameters) if f.name not in _IN_RESULT]
)
_TEXT = pa.string()
_WHERE = [pa.field(name, _TEXT, nullable=False) for name in ("trace", "path", "digest", "strategy")]
_SHORT = [pa.field(name, _TEXT, nullable=False) for name in _IN_RESULT]
_PART = pa.schema([pa.field("task", _TEXT, nullable=False), *_RESULT])
_RESULTS = pa.schema(
    [
        *_WHERE,
        *_SHORT,
        *_PARAMETERS,
        *(f for f in _RESULT if f.name not in {"trace", "strategy", *_IN_RESULT}),
    ]
)
_TASKS = pa.schema(
    [
        pa.field("task", _TEXT, nullable=False),
        *_WHERE,
        *_SHORT,
        *_PARAMETERS,
        pa.field("state", _TEXT, nullable=False),
        pa.field("problem", _TEXT),
    ]
)
