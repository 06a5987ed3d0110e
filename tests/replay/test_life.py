"""A page's life against the slow replay, which is watched set by set."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from replay.engine import Migration
from replay.life import life
from replay.observe import observe
from replay.policies import REQUESTS
from replay.sequence import rows_of
from replay.strategies import registered, strategy
from tests import reference
from tests.bridge import as_parameters, as_trace
from tests.random_traces import messy_case, random_case

NAMES = list(registered())
_DEEDS = (
    "_write", "_enter_free_list", "_leave_free_list", "_becomes_zero", "_clear_chunk_of", "_copy",
    "_sync", "_done",
)  # fmt: skip


class _Watched(reference._Replay):
    """The reference, which notes every page's bits before and after each deed."""

    def _start(self):
        self.seen = {page: [] for page in range(self.trace.pages)}
        self.stop_seen = None
        super()._start()
        for page in self.seen:
            self.seen[page].clear()
        self._look()

    def _look(self):
        if not self.started or self.completed:
            return
        for page, seen in self.seen.items():
            logged = page in self.log
            waits = logged and page in self.harvested and self._chunk(page) in self.marked
            bits = (
                self.now, page not in self.in_use, page in self.pending, logged, waits,
                page in self.content_zero, page in self.synced, page in self.destination_nonzero,
            )  # fmt: skip
            if not seen or seen[-1][1:] != bits[1:]:
                seen.append(bits)

    def _switch_over(self, reason):
        self._look()
        self.stop_seen = True
        super()._switch_over(reason)


def _wrap(name):
    plain = getattr(reference._Replay, name)

    def deed(self, *args):
        stopped = getattr(self, "stop_seen", None)
        if not stopped:
            self._look()
        found = plain(self, *args)
        if not stopped:
            self._look()
        return found

    return deed


for _name in _DEEDS:
    setattr(_Watched, _name, _wrap(_name))


def _reference(trace, name, parameters):
    run = _Watched(trace, reference._compose(name, parameters), parameters, saturated=False)
    run.run()
    return run


def _lives(trace, name, parameters):
    """Return what happened to every page, with looks at every row."""

    def migration(looks=None):
        pages = np.arange(trace.pages)
        chosen = strategy(name).with_request(parameters.request)
        return Migration(
            as_trace(trace), chosen, as_parameters(parameters), watch=pages, looks=looks
        )

    plain = observe(migration())
    times = {row.t for who in range(trace.pages) for row in rows_of(plain, who) if row.t > 0}
    looks = plain.host(np.array(sorted(times), np.int64)) if times else np.empty(0, np.int64)
    seen = observe(migration(np.unique(looks)))
    for one in (seen, plain):
        one.migration.memory.settle()
    assert (seen.migration.memory.state == plain.migration.memory.state).all()
    return [life(seen, who) for who in range(trace.pages)]


def _compare(trace, name, parameters):
    """Whether a life has the states of the reference, in its order and at its times."""
    wanted = _reference(trace, name, parameters)
    for page, happened in enumerate(_lives(trace, name, parameters)):
        seen = []
        for one in happened:
            if one.kind == "stop":
                break
            b = one.after
            bits = (one.host_ns, b.free, b.pending, b.log, b.log and b.harvested, b.zero, b.synced,
                    b.held)  # fmt: skip
            if not seen or seen[-1][1:] != bits[1:]:
                seen.append(bits)
        assert seen == wanted.seen[page], (page, [one.kind for one in happened])
        assert (happened[-1].kind == "stop") == wanted.completed
        if wanted.completed:
            last = happened[-1].after
            assert (last.synced, last.pending) == (page in wanted.synced, False)


@pytest.mark.parametrize("mode", ["legacy", "manual"])
@pytest.mark.parametrize("hold", ["none", "ack", "done"])
def test_a_life_has_the_states_of_the_slow_replay(mode, hold):
    rng = random.Random(f"{mode} {hold}")
    for _ in range(6):
        for make in (random_case, messy_case):
            trace, parameters = make(rng)
            trace = replace(trace, resolution="write")
            parameters = replace(
                parameters,
                log_mode=mode,
                guest_hold=hold,
                request=rng.choice([None, *REQUESTS]),
                hint_clears_log=rng.random() < 0.5,
            )
            for name in NAMES:
                try:
                    reference._compose(name, parameters)
                except ValueError:
                    continue
                _compare(trace, name, parameters)
