"""One migration of one traced guest under one strategy: the state, and the deeds done to it.

A loop profile (`replay.profiles`) decides when to copy and when to sync; this module knows how.
Time is host ns since the migration's start.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from replay import kernels as k
from replay.clock import Clock
from replay.contained import BLOCK_PAGES, Contained
from replay.feed import Feed, looped_epochs, seam
from replay.hints import Hinting, Report
from replay.link import link_constants, nameless
from replay.memory import Memory
from replay.parameters import LONGEST, Parameters
from replay.reported import Words, has
from replay.schedule import Schedule
from replay.strategies import Strategy
from tracer.rows import Flags, Int64s, Rows
from tracer.trace import Trace

_NO_PAGES: Int64s = np.empty(0, np.int64)


EventKind = Literal["sync", "snapshot", "handled", "pass", "chunk", "stop", "look"]


@dataclass(frozen=True)
class Event:
    """Something that concerns all pages, in the order in which it happened."""

    kind: EventKind
    host_ns: int
    guest_ns: int
    round: int
    report: Report | None = None
    #: kind "chunk": the number of the chunk whose harvested log was cleared.
    chunk: int = -1
    #: kind "pass": for each watched page when the cursor passed it, and whether it was copied.
    passed: Int64s | None = None
    sent: Flags | None = None
    #: kind "handled": which watched pages' pending bits it cleared.
    skipped: Flags | None = None
    #: The page at which the search for pending pages goes on.
    cursor: int = 0
    #: Of a migration with looks: whether the report names each watched page ("snapshot", "handled";
    #: at a handling without those that a hold keeps out), and uint8 (watched, 8), the columns of
    #: `kernels.state` for each of them right after the event.
    named: Flags | None = None
    facts: npt.NDArray[np.uint8] | None = None


class Migration:
    """A migration under way.

    trace: validated. saturated: hidden writes happen without pause (the model, section 7).
    contained: reports of the recorded guest, handled when guest time reaches them.
    watch: int64, ascending pages whose passes are noted in `events`. looks: int64, ascending host
    ns at which they are looked at closely: what the rows of that instant have made of them is
    noted too, before anything else happens at it. on_rows is called now and then with the number
    of dirty rows replayed.
    """

    def __init__(
        self,
        trace: Trace,
        strategy: Strategy,
        parameters: Parameters,
        *,
        saturated: bool = False,
        watch: Int64s = _NO_PAGES,
        looks: Int64s | None = None,
        contained: Contained | None = None,
        on_rows: Callable[[int], None] | None = None,
    ):
        self.trace = trace
        self.strategy = strategy
        self.parameters = parameters
        self.clock = Clock()
        # Weakly: in a circle the bitmaps would stay until the garbage collector comes by.
        self.hinting = Hinting(strategy, weakref.proxy(self))
        self._schedule = Schedule(strategy.request, parameters, self.hinting)
        self.memory = Memory(
            trace.meta,
            manual=parameters.log_mode == "manual",
            clear_chunk=parameters.clear_chunk,
            hints=strategy.hints or contained is not None,
            saturated=saturated,
        )
        self.syncs = 0
        self.round = 0
        #: After the last sync.
        self.pending_pages = trace.meta.pages
        #: Pages that syncs have made pending.
        self.dirtied = 0
        self.events: list[Event] = []
        self.watch = watch
        self._looks, self._looked = looks, 0
        self._on_rows = on_rows
        self._looping = parameters.at_end == "loop" and trace.meta.duration_ns > 0
        self.passes = LONGEST if self._looping else 1
        self.hold = parameters.hold(strategy)
        self._link = link_constants(trace.meta.page_size, parameters.bandwidth)
        self._blocks = nameless()
        self._to_copy = trace.meta.pages
        self.limit()
        self._dirty = Feed(trace, "dirty", self.passes)
        self._free = Feed(trace, "freelist", self.passes)
        self._zero = Feed(trace, "zero", self.passes)
        self.late_epochs = trace.meta.resolution == "epoch"
        #: When hidden writes end (guest ns), empty in scenarios without them.
        self.epoch_ends = self._epoch_ends() if saturated else _NO_PAGES
        self._passed = np.zeros(len(watch), np.int64)
        self._sent = np.zeros(len(watch), np.bool_)
        self._contained = contained or Contained(_NO_PAGES, _NO_PAGES)
        self._named = 0

    # -- time ---------------------------------------------------------------------------------

    def begin(self, *, first_sync: bool = False) -> None:
        """Set the initial state, sync if asked to, and ask for the first report."""
        self._heat_epoch(0)
        self.memory.ctl[k.LINK_NS] = k.FOREVER
        self._set_clock()
        self._run(0)
        self.memory.initially_set()
        self.link_free(0)
        if first_sync:
            self.sync(0)
        self._schedule.begin()
        self.settle(0)

    @property
    def last_guest_ns(self) -> int:
        """The guest time up to which the trace knows anything."""
        return self.trace.meta.duration_ns * self.passes

    @property
    def link_ns(self) -> int:
        """When the link is free again."""
        return int(self.memory.ctl[k.LINK_NS])

    @property
    def rows(self) -> int:
        """Dirty rows replayed so far."""
        return self._dirty.base + int(self.memory.ctl[k.DIRTY_ROW])

    @property
    def copies(self) -> int:
        """Pages copied so far, zero pages among them."""
        return int(self.memory.ctl[k.SENT] + self.memory.ctl[k.ZERO_SENT])

    @property
    def pending_now(self) -> int:
        """Pages pending at this moment, as QEMU counts them: after a sync, less what was copied."""
        return self._to_copy - self.copies

    @property
    def block_end(self) -> int:
        """The page past the block of which a page was copied last."""
        return int(self._blocks[1, self.memory.ctl[k.BLOCK]])

    @property
    def bytes_sent(self) -> int:
        """Bytes on the wire so far: pages and the names of blocks."""
        return int(self.memory.ctl[k.BYTES])

    def send_over(self, link: Int64s, blocks: Int64s) -> None:
        """Set what copies cost (`replay.link`), before anything is copied."""
        self._link, self._blocks = link, blocks

    def limit(self, size: int = k.FOREVER, copies: int = k.FOREVER) -> None:
        """Begin no copy once more than `size` bytes, or `copies` pages, have been sent in all."""
        self.memory.ctl[k.BYTES_LIMIT], self.memory.ctl[k.COPIES_LIMIT] = size, copies

    def link_free(self, now: int) -> None:
        """Begin a run of copies where the cursor stands: the link is free from `now`."""
        self.memory.ctl[k.LINK_NS], self.memory.ctl[k.LINK_REST] = now, 0

    def move_cursor(self, page: int, now: int) -> None:
        """Let the search for pending pages go on at `page`; those before count as passed `now`."""
        passed = int(np.searchsorted(self.watch, page)) if len(self.watch) else 0
        self._passed[:passed], self._sent[:passed] = now, False
        self.memory.ctl[k.CURSOR], self.memory.ctl[k.WATCHED] = page, passed

    def next_due(self) -> int:
        """Return when the next thing about reports is due."""
        return min(self._schedule.next_due(), self._next_contained(), self._next_look())

    def sweep(self, until: int) -> int:
        """Copy and let the guest run up to `until`; return why that ended.

        kernels.DUE: at `until`. SWEPT: the cursor was through before. SPENT: a limit was reached.
        """
        return self._run(until)

    def idle(self, until: int) -> None:
        """Let the guest run up to `until` with the link idle."""
        ctl = self.memory.ctl
        link_ns, ctl[k.LINK_NS] = ctl[k.LINK_NS], k.FOREVER
        self._run(until)
        ctl[k.LINK_NS] = link_ns

    def settle(self, now: int) -> None:
        """Do all about reports that is due at `now`, in the model's order, until nothing is."""
        while self._next_look() <= now:
            self._note("look", self._next_look())
            self._looked += 1
        while self._contained_due(now) + self._schedule.do_due(now):
            pass

    # -- deeds --------------------------------------------------------------------------------

    def regular_sync(self, now: int) -> None:
        """Make a regular sync, with what the strategy does before it."""
        self.hinting.regular_sync(now)

    def ask_after_sync(self, now: int) -> None:
        """Make the requests that follow a regular sync which does not end the replay."""
        self._schedule.after_sync(now)
        self.settle(now)

    def sync(self, now: int) -> None:
        """migration_bitmap_sync."""
        self._catch_up()
        self._note_chunks()
        before = self.pending_now
        self.pending_pages = self.memory.sync()
        self.dirtied += self.pending_pages - before
        self._to_copy = self.pending_pages + self.copies
        self.syncs += 1
        self._note("sync", now)

    def take_snapshot(self, report: Report, now: int) -> None:
        """Let the guest note its free pages."""
        report.changes, report.pages = self.memory.look(self.parameters.min_order)
        report.row = self._free.base + int(self.memory.ctl[k.FREE_ROW])
        self._note("snapshot", now, report, named=self._watched(self.memory.reported.noted))

    def skip(self, report: Report, now: int) -> None:
        """Clear the pending bits of the report's pages, but for those that a hold keeps out."""
        memory, reported = self.memory, self.memory.reported
        assert report.changes is not None
        reported.open(report.changes)
        report.conflicts = sum(reported.leave_out(rows) for rows in self._held(report))
        if self.parameters.hint_clears_log:
            self._note_chunks()
            memory.clear_named_chunks(now)
            self._note_chunks(report)
        report.skips, report.skipped = memory.skip()
        self._to_copy -= report.skipped
        named, skipped = self._watched(reported.named), report.skips.of(self.watch)
        self._note("handled", now, report, named=named, skipped=skipped)

    def skipped(self, report: Report, now: int) -> None:  # noqa: ARG002
        """Note which of the pages just skipped are lost as things stand."""
        assert report.skips is not None
        if not self.clock.stopped:
            self.memory.touch(report.skips.numbers)
        missed, report.missed = self.memory.find_missed(report.skips)
        if len(self.watch):
            report.missed_watched = np.flatnonzero(missed.of(self.watch))

    def forget(self, report: Report) -> None:
        """Let go of what a report names."""
        if report.changes is not None:
            self.memory.reported.close(report.changes)
        report.changes = report.skips = None

    def stop_guest(self, now: int) -> None:
        """Stop the vCPUs."""
        self._catch_up()
        self.clock.stop(now)
        self._set_clock()

    def run_guest(self, now: int) -> None:
        """Let the vCPUs run on."""
        self.clock.run(now)
        self._set_clock()

    def throttle(self, now: int, percent: int) -> None:
        """Take so much of the vCPUs' time from them, from now on."""
        self._catch_up()
        self.clock.throttle(now, percent)
        self._set_clock()

    def end_round(self, now: int) -> None:
        """Note the passes of the watched pages in the round that has ended.

        Pages that the cursor has not come to count as passed `now`.
        """
        self._note_chunks()
        if len(self.watch):
            beyond = slice(int(self.memory.ctl[k.WATCHED]), None)
            self._passed[beyond], self._sent[beyond] = now, False
            self._note("pass", now, passed=self._passed.copy(), sent=self._sent.copy())

    def switch_over(self, now: int) -> int:
        """Stop the guest for good and copy what is pending; return the time of the last byte."""
        self.clock.stop(now)
        self._set_clock()
        self.move_cursor(0, now)
        return self.copy_rest(now)

    def copy_rest(self, now: int, after_ns: int = 0) -> int:
        """Copy all that is pending, the guest stopped, from the cursor on and round the end.

        The first copy is made `after_ns` later. Returns the time of the last byte.
        """
        self._note("stop", now)
        self.link_free(now + after_ns)
        self.limit()
        self._run(k.FOREVER)
        if self.pending_now:
            self.memory.ctl[k.CURSOR] = 0
            self._run(k.FOREVER)
        return self.link_ns

    def abandon(self) -> None:
        """End without a switchover: only what hidden writes have outdated is still to be seen."""
        self._catch_up()

    # -- inside -------------------------------------------------------------------------------

    def _next_look(self) -> int:
        if self._looks is None or self._looked == len(self._looks):
            return k.FOREVER
        return int(self._looks[self._looked])

    def _watched(self, words: Words) -> Flags | None:
        """Return the watched pages' bits, if that is to be noted."""
        return None if self._looks is None else has(words[self.watch >> 6], self.watch)

    def _next_contained(self) -> int:
        if self._named == len(self._contained.t):
            return k.FOREVER
        host = self.clock.host(int(self._contained.t[self._named]))
        return k.FOREVER if host is None else host

    def _contained_due(self, now: int) -> int:
        handled = 0
        while self._next_contained() <= now:
            first = int(self._contained.page[self._named])
            self._to_copy -= self.memory.skip_run(first, BLOCK_PAGES)
            self._named += 1
            handled += 1
        return handled

    def _held(self, report: Report) -> Iterator[Rows]:
        """Yield the free-list rows whose takes a hold would have sent elsewhere."""
        if self.hold == "ack":
            stop = self._free.base + int(self.memory.ctl[k.FREE_ROW])
            yield from self._free.between(report.row, stop)
        elif self.hold == "done" and self._looping:
            yield seam(self.trace)
            yield from self.trace.rows("freelist")
        elif self.hold == "done":
            yield from self.trace.rows("freelist", report.row)

    def _run(self, until: int) -> int:
        memory, dirty, free, zero = self.memory, self._dirty, self._free, self._zero
        while True:
            status = k.sweep(
                memory.state, memory.written, memory.reported.moved, memory.hot, memory.harvested,
                memory.marks, memory.chunks, memory.cleared, self._blocks,
                self.watch, self._passed, self._sent, memory.ctl, self._link, until,
                dirty.t, dirty.page, dirty.count, dirty.more,
                free.t, free.page, free.count, free.free, free.more,
                zero.t, zero.page, zero.count, zero.more, self.epoch_ends, self.late_epochs,
            )  # fmt: skip
            if status == k.NEED_DIRTY:
                dirty.advance()
                memory.ctl[k.DIRTY_ROW] = 0
                if self._on_rows is not None:
                    self._on_rows(dirty.base)
            elif status == k.NEED_FREE:
                free.advance()
                memory.ctl[k.FREE_ROW] = 0
            elif status == k.NEED_ZERO:
                zero.advance()
                memory.ctl[k.ZERO_ROW] = 0
            elif status == k.EPOCH_END:
                self._catch_up()
                memory.hot[:] = 0
                memory.ctl[k.EPOCH] += 1
                self._heat_epoch(int(memory.ctl[k.EPOCH]))
            else:
                return int(status)

    def _set_clock(self) -> None:
        host, guest, rate = self.clock.segments[-1]
        ctl = self.memory.ctl
        ctl[k.HOST_0], ctl[k.GUEST_0], ctl[k.RATE] = host, guest, rate

    def _catch_up(self) -> None:
        """Let hidden writes happen up to now; a guest that stands still makes none."""
        if not self.clock.stopped:
            self.memory.touch()

    def _epoch_ends(self) -> Int64s:
        ends = looped_epochs(self.trace, self.passes)
        if self.late_epochs and not len(ends):
            ends = np.unique(np.concatenate([rows.t for rows in self.trace.rows("dirty")]))
        # What the last epoch hides ends with the trace.
        return np.union1d(ends, np.array([self.last_guest_ns + 1], np.int64))

    def _heat_epoch(self, number: int) -> None:
        """With `epoch` resolution: make hot what the rows at the epoch's end will name."""
        if not self.late_epochs or number >= len(self.epoch_ends):
            return
        end, begin = int(self.epoch_ends[number]), int(self.epoch_ends[number - 1]) if number else 0
        for rows in self._dirty.between(self.rows, None):
            first, past = (int(np.searchsorted(rows.t, t, side="right")) for t in (begin, end))
            k.heat(self.memory.hot, rows.page[first:past], rows.count[first:past])
            if past < len(rows.t):
                break

    def _note(
        self,
        kind: EventKind,
        now: int,
        report: Report | None = None,
        *,
        chunk: int = -1,
        passed: Int64s | None = None,
        sent: Flags | None = None,
        skipped: Flags | None = None,
        named: Flags | None = None,
    ) -> None:
        guest, cursor = self.clock.guest(now), int(self.memory.ctl[k.CURSOR])
        facts = None
        if self._looks is not None:
            words = self.watch >> 6
            self.memory.settle(words)
            facts = has(self.memory.state[words], self.watch[:, None]).astype(np.uint8)
        self.events.append(
            Event(kind, now, guest, self.round, report, chunk, passed, sent, skipped,
                  min(cursor, self.trace.meta.pages), named, facts)
        )  # fmt: skip

    def _note_chunks(self, report: Report | None = None) -> None:
        """Note the chunks whose log was cleared since the last look, by copies or by `report`."""
        cleared = self.memory.cleared
        if len(self.watch):
            for chunk in np.flatnonzero(cleared >= 0):
                self._note("chunk", int(cleared[chunk]), report, chunk=int(chunk))
        cleared[:] = -1
