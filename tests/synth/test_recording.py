"""What a recording hides, against the same guest recorded in full, worked out the slow way."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.info import describe
from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import strategy
from tests.synth.guests import MS, SECOND, columns, make_order, order
from tracer import Trace, UsageError
from tracer.synth.chunks import Chunk, Table
from tracer.synth.recording import Recording
from tracer.synth.thinning import Thinning

PAGES = 1 << 13
KINDS = ("churn", "kernel-build", "hot-cold")
EPOCH = 300 * MS
QUANTUM = 3 * MS


@pytest.fixture(scope="module", params=KINDS)
def guest(request, tmp_path_factory):
    """Return the guest recorded in full, and a way to have it recorded otherwise."""
    folder = tmp_path_factory.mktemp("recording")
    settings = {"pages": PAGES, "seconds": 2, "alloc_order": 2}

    def recorded(name, **recording) -> Trace:
        path = folder / f"{name}.trace"
        if not path.exists():
            wanted = order(request.param, recording=Recording(**recording), **settings)
            make_order(wanted, path)
        trace = Trace.open(path)
        trace.validate()
        return trace

    return recorded("full"), recorded


def state_after(trace: Trace, table: str, moments) -> list[np.ndarray]:
    """Which pages are free (or, for `zero`, all zeros) after all rows up to each moment."""
    moves = columns(trace, table)
    events = [(*moves.expanded(), None)]
    if table == "zero":
        events = [(*columns(trace, "dirty").expanded(), 0), (*moves.expanded(), 1)]
    else:
        values = np.repeat(moves.free, moves.count.astype(np.int64)).astype(int)
    t = np.concatenate([event[0] for event in events])
    page = np.concatenate([event[1] for event in events])
    if table == "zero":
        values = np.concatenate([np.full(len(event[0]), event[2]) for event in events])
    by_time = np.argsort(t, kind="stable")
    t, page, values = t[by_time], page[by_time], values[by_time]
    state, at, found = np.zeros(PAGES, bool), 0, []
    for moment in moments:
        upto = np.searchsorted(t, moment, side="right")
        for p, v in zip(page[at:upto].tolist(), values[at:upto].tolist(), strict=True):
            state[p] = v
        at = upto
        found.append(state.copy())
    return found


def zero_rows_hold(full: Trace, thin: Trace, *, at=lambda t: t) -> int:
    zero = columns(thin, "zero")
    moments = np.unique(zero.t)
    for moment, state in zip(moments, state_after(full, "zero", at(moments)), strict=True):
        _, page = zero[zero.t == moment].expanded()
        assert state[page].all(), moment
    return int((moments > 0).sum())


def quantum_end(t):
    return np.where(t == 0, 0, t // QUANTUM * QUANTUM + QUANTUM - 1)


def test_first_writes(guest):
    full, recorded = guest
    thin = recorded("first", resolution="first-write", epoch_ns=EPOCH)
    assert thin.epochs.tolist() == list(range(EPOCH, 2 * SECOND + 1, EPOCH))
    t, page = columns(full, "dirty").expanded()
    _, first = np.unique((t // EPOCH) * PAGES + page, return_index=True)
    wanted = sorted(zip(t[first].tolist(), page[first].tolist(), strict=True))
    found = columns(thin, "dirty").expanded()
    assert sorted(zip(*(column.tolist() for column in found), strict=True)) == wanted
    assert zero_rows_hold(full, thin) > 2
    assert describe(thin).writes_on_free_pages == 0
    assert thin.num_rows("freelist") == full.num_rows("freelist")


def test_epochs(guest):
    full, recorded = guest
    thin = recorded("epoch", resolution="epoch", epoch_ns=EPOCH)
    ends = [*range(EPOCH, 2 * SECOND, EPOCH), 2 * SECOND]
    assert thin.epochs.tolist() == ends
    t, page = columns(full, "dirty").expanded()
    end = np.array(ends)[np.searchsorted(ends, t)]
    wanted = set(zip(end.tolist(), page.tolist(), strict=True))
    found_t, found_page = columns(thin, "dirty").expanded()
    found = list(zip(found_t.tolist(), found_page.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert zero_rows_hold(full, thin) > 2


@pytest.mark.parametrize("resolution", ["write", "first-write", "epoch"])
def test_a_sampled_free_list(guest, resolution):
    full, recorded = guest
    every = 150 * MS
    thin = recorded(
        f"sampled-{resolution}", resolution=resolution, epoch_ns=EPOCH,
        freelist="sampled", sample_ns=every,
    )  # fmt: skip
    moments = np.arange(0, 2 * SECOND + 1, every)
    truth, seen = (state_after(trace, "freelist", moments) for trace in (full, thin))
    for moment, true, listed in zip(moments, truth, seen, strict=True):
        assert np.array_equal(true, listed), moment
    moves = columns(thin, "freelist")
    assert np.all((moves.since <= moves.t) & (moves.t - moves.since <= every))
    if resolution != "epoch":
        # The late take was moved to the write.
        assert describe(thin).writes_on_free_pages == 0
    moved = moves.t % every != 0
    assert not moves.free[moved].any()
    assert moved.any() == (resolution != "epoch")


def test_a_sampled_moves_window_holds_the_truth(guest):
    """Each row's page really made that move in [since, t]."""
    full, recorded = guest
    thin = recorded("windows", freelist="sampled", sample_ns=150 * MS)
    true = {}
    moves = columns(full, "freelist")
    free = np.repeat(moves.free, moves.count.astype(np.int64))
    for t, page, f in zip(*(c.tolist() for c in moves.expanded()), free.tolist(), strict=True):
        true.setdefault((page, f), []).append(t)
    moves = columns(thin, "freelist")
    free = np.repeat(moves.free, moves.count.astype(np.int64)).tolist()
    since = np.repeat(moves.since, moves.count.astype(np.int64)).tolist()
    for t, page, f, s in zip(*(c.tolist() for c in moves.expanded()), free, since, strict=True):
        assert any(s <= moment <= t for moment in true[page, f]), (page, f, s, t)


def test_a_quantum(guest):
    full, recorded = guest
    thin = recorded("quantum", quantum_ns=QUANTUM)
    t, page = columns(full, "dirty").expanded()
    wanted = set(zip((t // QUANTUM).tolist(), page.tolist(), strict=True))
    dirty = columns(thin, "dirty")
    t, page = dirty.expanded()
    assert set(zip((t // QUANTUM).tolist(), page.tolist(), strict=True)) == wanted
    assert np.all((dirty.t % QUANTUM == 0) | (dirty.t == 1))
    single = dirty[dirty.count == 1]
    cells = (single.t // QUANTUM) * PAGES + single.page
    assert len(np.unique(cells)) == len(cells)
    assert describe(thin).writes_on_free_pages == 0
    # A zero row holds from its quantum's end to the next write.
    assert zero_rows_hold(full, thin, at=quantum_end) > 2
    ends = np.arange(QUANTUM - 1, 2 * SECOND, QUANTUM)
    lists = [state_after(trace, "freelist", ends) for trace in (full, thin)]
    for moment, true, listed in zip(ends, *lists, strict=True):
        assert np.array_equal(true, listed), moment


def test_all_at_once_and_they_replay(guest):
    full, recorded = guest
    thin = recorded(
        "all", resolution="first-write", epoch_ns=EPOCH, freelist="sampled", sample_ns=100 * MS,
        quantum_ns=QUANTUM,
    )  # fmt: skip
    assert zero_rows_hold(full, thin, at=quantum_end) > 2
    parameters = Parameters(bandwidth=32 << 20, max_rounds=3)
    runs = replay(thin, strategy("hint-drain"), parameters)
    assert [run.result.scenario for run in runs] == ["recorded", "expected", "saturated"]
    assert all(run.result.completed for run in runs)


def _rows(*rows) -> Table:
    return Table(*(np.array(column) for column in zip(*rows, strict=True)))


@pytest.mark.parametrize(("resolution", "when"), [("first-write", 9), ("epoch", None)])
def test_a_write_at_the_instant_of_a_harvest(resolution, when):
    """It is the next epoch's of a first-write recording, and the ending one's of `epoch` rows."""
    thinning = Thinning(64, resolution, 10, 25)
    chunk = Chunk(12, dirty=_rows((5, 3, 2), (10, 3, 1), (12, 4, 1)), zero=_rows((5, 3, 2)))
    found = [*thinning.feed(chunk), *thinning.finish()]
    dirty = [row for c in found for row in zip(c.dirty.t, c.dirty.page, c.dirty.count, strict=True)]
    zero = [row for c in found for row in zip(c.zero.t, c.zero.page, c.zero.count, strict=True)]
    if when is not None:
        assert dirty == [(5, 3, 2), (10, 3, 1), (12, 4, 1)]
        # At 10 page 3 is written: what it held is known for the instant before.
        assert zero == [(when, 3, 2)]
    else:
        assert dirty == [(10, 3, 2), (20, 4, 1)]
        assert zero == [(10, 4, 1)]


@pytest.mark.parametrize("bad", [{"epoch_ns": 1}, {"sample_ns": 0}, {"quantum_ns": 0}])
def test_impossible_recordings(bad):
    with pytest.raises(UsageError, match="wanted at least"):
        Recording(**bad)
