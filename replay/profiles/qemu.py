"""QEMU's pre-copy loop (the model, section 3, profile `qemu`).

QEMU's functions are migration_thread, migration_iteration_run, migration_update_counters and
migration_rate_limit (migration/migration.c), ram_save_iterate, ram_find_and_save_block,
find_dirty_block, save_page_header, ram_save_pending and migration_bitmap_sync (migration/ram.c),
qemu_file_rate_limit (migration/qemu-file.c). What logs of 7.2, 10.0 and 11.1 show of them
(thresholds, windows, pages a window, syncs) agrees. As of 7.2:

- Time is cut in windows of 100 ms (BUFFER_DELAY), counted in whole ms. In each a tenth of
  max-bandwidth may be put on the wire; a page is begun as long as no more than that has been. Then
  the sender sleeps until the window is 100 ms old.
- A window ends when the loop finds it 100 ms old. What was put on the wire in it by the ms it took
  is the measured bandwidth; times downtime-limit that is the threshold. It is 0 in the first one.
  (avail-switchover-bandwidth, where a later version has it set, takes the measured one's place.)
- The loop asks for what is pending when it comes round: at each window's start and after more than
  50 ms of sending (MAX_WAIT, looked at after every 64th page). Below the threshold there is a sync,
  and if still below, or with nothing pending, the guest is stopped, with a last sync.
- The cursor goes round over the blocks in migration order; a sync does not move it. A search that
  finds nothing leaves it at the end of the block where it began.
- What the stop takes besides RAM counts as downtime: pausing the vCPUs and flushing the disks
  before it, the devices' state after it, without a limit (vm_stop_force_state,
  qemu_savevm_state_complete_precopy). It is no part of ram.transferred and of what is pending.
- The first sync comes before the first page. A block's first page in a row carries its name; an
  iteration begins with 5 bytes and ends with 13, of which QEMU counts 8 as RAM (ram.transferred).

What later versions do differently is in `replay.qemu_version`; that and what is not modelled in
ARCHITECTURE.md, "Profile qemu against QEMU's source".
"""

from __future__ import annotations

from replay import kernels as k
from replay.course import MAX_WAIT_MS, Pace
from replay.dirty_limit import Limiter
from replay.engine import Migration
from replay.link import HEADER_BYTES, SECOND_NS, link_constants, named, wire_bytes
from replay.parameters import Parameters
from replay.profiles.base import Moment, Outcome, Reason, Round
from replay.profiles.steps import (
    counters,
    drain,
    exhausted,
    round_row,
    wait_for_answer,
)
from replay.stream import EOS_BYTES, FlushedStream, Stream
from replay.throttle import SyncTimer, Throttle, pace, sleep_left

MS_NS = 1_000_000
#: BUFFER_DELAY: a window's length in ms, and how many make a second (XFER_LIMIT_RATIO).
WINDOW_MS = 100
_WINDOWS_A_SECOND = 10
#: How long an iteration has lasted (MAX_WAIT) it looks at after page 1 and every 64th from there.
_LOOK_EVERY = 64


def run(migration: Migration) -> Outcome:
    """Run a migration as QEMU does until it switches over or the trace knows no more."""
    return _Loop(migration).run()


class _Window:
    """One window: what may still be sent, and what the last one measured."""

    def __init__(self, parameters: Parameters, stream: Stream):
        self._stream = stream
        self._budget = parameters.bandwidth // _WINDOWS_A_SECOND
        self._limit_ns = parameters.downtime_limit_ns
        self._switchover = parameters.switchover_bandwidth
        recorded = parameters.course
        self._phase_ns = 0 if recorded is None else recorded.phase_ns
        self._start_ms = 0
        self._start_bytes = 0
        #: Bytes; 0 until a window has been measured.
        self.threshold = 0

    def ms(self, now: int) -> int:
        """Return what QEMU's clock shows, which counts whole ms."""
        return (now + self._phase_ns) // MS_NS

    def ns(self, ms: int) -> int:
        """Return when QEMU's clock shows it first."""
        return ms * MS_NS - self._phase_ns

    @property
    def end_bytes(self) -> int:
        """Up to how many counted bytes another page may be begun."""
        return self._start_bytes + self._budget

    @property
    def spent(self) -> bool:
        """Whether the sender has to sleep until the window ends."""
        return self._stream.counted > self.end_bytes

    def look(self, now: int, *, slept: bool = False) -> None:
        """Begin the next window if this one is old enough (migration_update_counters).

        slept: to its end, as recorded, whatever may be lacking here.
        """
        now_ms = self.ms(now)
        took = max(now_ms - self._start_ms, WINDOW_MS if slept else 0)
        if took < WINDOW_MS:
            return
        sent = self._stream.counted
        self.threshold = self._fits(sent - self._start_bytes, took)
        self._start_ms, self._start_bytes = now_ms, sent

    def _fits(self, size: int, took_ms: int) -> int:
        """Return how many bytes the stop may have to send, so many having taken so many ms."""
        if self._switchover is not None:
            # avail-switchover-bandwidth, whatever was measured: in whole bytes a ms.
            size, took_ms = self._switchover // 1000, 1
        return size * self._limit_ns // (took_ms * MS_NS)

    def sleep_ns(self, now: int) -> int:
        """Return for how long the sender sleeps, in whole ms (migration_rate_limit)."""
        return (self._start_ms + WINDOW_MS - self.ms(now)) * MS_NS


class _Loop:
    """migration_thread: the windows, the iterations and the checks between them."""

    def __init__(self, migration: Migration):
        parameters, meta = migration.parameters, migration.trace.meta
        self._migration = migration
        self._page_size = meta.page_size
        self._rounds: list[Round] = []
        self._stopped = False
        self._throttles: list[tuple[int, int]] = []
        self._course: list[Moment] = []
        self._recorded = parameters.course
        self._sleeps = 0
        self._version = parameters.loop(meta).version
        self._throttle = None
        if parameters.auto_converge is not None:
            self._throttle = Throttle(parameters.auto_converge, 0)
        self._timer = None
        if self._throttle is not None and self._version.syncs_by_timer:
            self._timer = SyncTimer()
        self._limiter = None
        if parameters.dirty_limit is not None:
            limit, load = parameters.dirty_limit, parameters.guest_load
            self._limiter = Limiter(
                limit,
                migration.trace,
                migration.passes,
                load,
                sleeps_out=self._version.sleeps_out,
            )
        self._blocks = named(meta.blocks)
        self._send_at(1, 1)
        self._stream = Stream(migration)
        if self._version.counts_when_flushed:
            self._stream = FlushedStream(migration, self._page_size, self._blocks)
        self._window = _Window(parameters, self._stream)
        self._before = counters(migration)
        self._since = 0

    def run(self) -> Outcome:
        """Run it."""
        migration, window = self._migration, self._window
        migration.begin(first_sync=True)
        now = wait_for_answer(migration) if migration.strategy.start == "wait" else 0
        migration.round = 1
        self._since = now
        slept = False
        while True:
            if not window.spent:
                now, outcome = self._check(now)
                if outcome is not None:
                    return outcome
                now = self._wait(self._iterate(now), 0)
                self._note(now)
            window.look(now, slept=slept)
            slept = window.spent
            if slept:
                now = self._wait(now, self._sleep_ns(now))

    def _pace(self, start: int) -> Pace:
        """Return how the iteration goes that begins."""
        parameters = self._migration.parameters
        page_ns = (self._page_size + HEADER_BYTES) * SECOND_NS // parameters.line_rate
        recorded = self._recorded
        found = None if recorded is None else recorded.near(start, page_ns, parameters.zero_page_ns)
        return found or Pace(1, 1, None)

    def _send_at(self, took: int, usual: int) -> None:
        """Let pages take `took` ns that usually take `usual`."""
        parameters = self._migration.parameters
        rate = max(parameters.line_rate * usual // took, 1)
        zero_ns = parameters.zero_page_ns * took // usual
        self._migration.send_over(link_constants(self._page_size, rate, zero_ns), self._blocks)

    def _sleep_ns(self, now: int) -> int:
        """Return for how long the sender sleeps, what the host keeps it longer included."""
        sleep = self._window.sleep_ns(now)
        woke = None if self._recorded is None else self._recorded.wake(now, now + sleep)
        if woke is not None:
            return woke - now
        parameters = self._migration.parameters
        lost = parameters.lost_ns or (0,)
        self._sleeps += 1
        return sleep + parameters.wake_ns + lost[(self._sleeps - 1) % len(lost)]

    def _check(self, now: int) -> tuple[int, Outcome | None]:
        """migration_iteration_run: sync if little is pending, and stop if still so.

        Returns when that is over, and how the migration ended if it did.
        """
        migration = self._migration
        if not self._calls_for_sync:
            if self._reason() is None:
                return now, None
            self._end_row(now, None)
            return now, self._switch_over(now, "downtime-limit")
        drained = drain(migration, now)
        if drained is None or migration.clock.guest(drained) > migration.last_guest_ns:
            self._end_row(now, None)
            return now, self._give_up(drained)
        self._limit(drained)
        now = self._sync(self._wait(drained, self._asleep(drained)))
        reason = self._reason() or self._tired()
        if reason is not None:
            return now, self._switch_over(now, reason)
        migration.ask_after_sync(now)
        return now, None

    @property
    def _pending_bytes(self) -> int:
        return self._migration.pending_now * self._page_size

    @property
    def _calls_for_sync(self) -> bool:
        """Whether what is pending is so little that a sync has to tell what is so by now."""
        pending, threshold = self._pending_bytes, self._window.threshold
        return pending <= threshold if self._version.syncs_at_threshold else pending < threshold

    def _reason(self) -> Reason | None:
        """Return why to stop the guest, if what is pending is little enough."""
        pending, threshold = self._pending_bytes, self._window.threshold
        least = threshold + 1 if self._version.stops_at_threshold else threshold
        return "downtime-limit" if not pending or pending < least else None

    def _tired(self) -> Reason | None:
        limit = self._migration.parameters.max_rounds
        return "max-rounds" if limit is not None and self._migration.round >= limit else None

    def _sync(self, now: int) -> int:
        """Make a regular sync; return when it is over."""
        migration = self._migration
        migration.regular_sync(now)
        self._end_row(now, migration.pending_now)
        return self._after_sync(now)

    def _after_sync(self, now: int) -> int:
        """Let the sync wait for throttled vCPUs, then see to what slows the guest."""
        migration = self._migration
        dirtied = migration.dirtied * self._page_size
        if self._limiter is not None:
            guest = migration.clock.guest(now)
            self._limiter.synced(now, guest, dirtied, self._stream.counted)
            migration.throttle(now, 0 if self._limiter.awake else 100)
        now = self._wait(now, self._sync_lasts(now))
        self._trigger(now, dirtied)
        return now

    def _trigger(self, now: int, dirtied: int) -> None:
        """See to the throttle, a sync being over."""
        migration, throttle = self._migration, self._throttle
        if throttle is None:
            return
        if throttle.synced(self._window.ms(now), dirtied, self._counted):
            left = pace(throttle.percent, migration.parameters.guest_load)
            migration.throttle(now, 100 - left)
            self._throttles.append((now, throttle.percent))

    def _asleep(self, now: int) -> int:
        """Return for how many ns a sync waits for vCPUs that dirty-limit has sent to sleep."""
        recorded = self._recorded
        if self._limiter is None:
            return 0
        end = None if recorded is None else recorded.synced(now)
        return self._limiter.asleep_for(now) if end is None else end - now

    def _sync_lasts(self, now: int) -> int:
        """Return for how many ns a sync waits for the vCPUs."""
        recorded = self._recorded
        end = None if recorded is None else recorded.synced(now)
        if end is not None:
            return end - now
        if not (self._throttle and self._throttles and self._migration.parameters.sync_waits):
            return 0
        wakes = () if recorded is None else recorded.vcpu_wakes
        return sleep_left(self._throttles, now, wakes)

    def _stop_lasts(self, now: int) -> int:
        """Return after how many ns, as recorded, the sync was over that follows the stop."""
        recorded = self._recorded
        end = None if recorded is None else recorded.stopped(now)
        return 0 if end is None else end - now

    def _next_due(self) -> int:
        due = self._migration.next_due()
        if self._timer is not None and self._timer.ending is not None:
            due = min(due, self._timer.ending)
        return due if self._limiter is None else min(due, self._limiter.next_due)

    def _settle(self, now: int) -> None:
        """Do all that is due at `now`."""
        self._limit(now)
        timer, migration = self._timer, self._migration
        if timer is not None and timer.ending is not None and timer.ending <= now:
            self._trigger(timer.ending, migration.dirtied * self._page_size)
            timer.set(self._window.ms(timer.ending), migration.syncs)
        migration.settle(now)

    def _next_tick(self) -> int:
        """Return when the timer of syncs ticks."""
        if self._timer is None or self._timer.due_ms is None:
            return k.FOREVER
        due = self._window.ns(self._timer.due_ms)
        return due if self._recorded is None else self._recorded.ticked(due)

    def _tick(self, now: int) -> None:
        """Let the timer of syncs tick; `now` the bitmaps are free for a sync.

        The sender goes on while that one waits for throttled vCPUs.
        """
        timer, migration = self._timer, self._migration
        if timer is not None and timer.wants(migration.syncs):
            migration.regular_sync(now)
            self._end_row(now, migration.pending_now)
            migration.ask_after_sync(now)
            timer.ending = now + self._sync_lasts(now)

    def _limit(self, now: int) -> None:
        """Let dirty-limit put the vCPUs to sleep or wake them, if that is due."""
        migration, limiter = self._migration, self._limiter
        if limiter is None:
            return
        held = limiter.held
        while limiter.next_due <= now:
            limiter.settle(now, migration.clock.guest(now))
            migration.throttle(now, 0 if limiter.awake else 100)
        if limiter.held != held:
            self._throttles.append((now, limiter.held))

    @property
    def _counted(self) -> int:
        """Bytes as ram.transferred has them: RAM's, or all that were flushed."""
        if self._stopped and self._version.counts_when_flushed:
            return self._stream.put + self._migration.parameters.device_bytes
        if self._version.counts_when_flushed:
            return self._stream.counted
        return self._migration.bytes_sent + self._stream.iterations * EOS_BYTES

    def _iterate(self, start: int) -> int:
        """ram_save_iterate: send until the budget, the time or the work is done; return when."""
        migration = self._migration
        going = self._pace(start)
        self._send_at(going.took, going.usual)
        migration.link_free(start)
        size, copied, most = self._window.end_bytes, migration.copies, k.FOREVER
        deadline = start + (MAX_WAIT_MS + 1) * MS_NS
        if going.pages is not None:
            deadline, most = k.FOREVER, copied + going.pages
        self._stream.begin()
        while True:
            due = self._next_due()
            until = min(due, deadline)
            status = self._stream.sweep(until, size, most)
            if status == k.SPENT or (status == k.SWEPT and not self._wrap()):
                break
            if status == k.DUE and until == due:
                self._settle(due)
            if status == k.DUE and until == deadline:
                # The page under way at that moment is through; the next look may be later.
                more = -(migration.copies - copied - 1) % _LOOK_EVERY
                deadline, most = k.FOREVER, migration.copies + more
        self._stream.end()
        return migration.link_ns

    def _wrap(self) -> bool:
        """The cursor is through: let it begin again; return whether anything is pending."""
        migration = self._migration
        now, pending = migration.link_ns, migration.pending_now
        migration.end_round(now)
        self._end_row(now, None)
        migration.round += 1
        migration.move_cursor(0 if pending else migration.block_end, now)
        return pending > 0

    def _wait(self, now: int, wait: int) -> int:
        """Let the guest run, link idle; return when that is over."""
        migration, end = self._migration, now + wait
        while True:
            due, tick = self._next_due(), max(self._next_tick(), now)
            migration.idle(min(due, tick, end))
            if min(due, tick) > end:
                return end
            if due <= tick:
                self._settle(due)
            else:
                self._tick(tick)

    def _note(self, now: int) -> None:
        migration = self._migration
        sent, zero = (int(migration.memory.ctl[slot]) for slot in (k.SENT, k.ZERO_SENT))
        moment = Moment(now, sent, zero, self._counted, migration.syncs, migration.pending_now)
        self._course.append(moment)

    def _end_row(self, now: int, pending: int | None) -> None:
        self._rounds.append(round_row(self._migration, self._before, self._since, now, pending))
        self._before, self._since = counters(self._migration), now

    def _switch_over(self, now: int, reason: Reason) -> Outcome:
        """migration_completion, ram_save_complete: stop the guest, sync, send the rest."""
        migration, self._stopped = self._migration, True
        migration.stop_guest(now)
        migration.sync(now)
        migration.end_round(now)
        parameters = migration.parameters
        stop_ns = max(parameters.stop_ns, self._stop_lasts(now))
        going = self._pace(now + stop_ns)
        self._send_at(going.took, going.usual)
        end = migration.copy_rest(now, stop_ns)
        end += parameters.device_bytes * SECOND_NS // parameters.line_rate
        self._rounds.append(round_row(migration, self._before, now, end, None, stopped=True))
        return self._outcome(reason, end, now)

    def _give_up(self, now: int | None) -> Outcome:
        """End where a sync would know nothing of the guest any more."""
        end = exhausted(self._migration, now, self._rounds)
        return self._outcome(end.reason, end.end_ns, None)

    def _outcome(self, reason: Reason, end: int, stop: int | None) -> Outcome:
        sent = sum(row.pages_sent for row in self._rounds)
        zero = sum(row.zero_pages_sent for row in self._rounds)
        self._note(end)
        return Outcome(
            reason,
            end,
            stop,
            tuple(self._rounds),
            self._counted - wire_bytes(self._page_size, sent, zero),
            tuple(self._throttles),
            tuple(self._course),
        )
