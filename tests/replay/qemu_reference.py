"""QEMU's loop written down literally, page by page, from the model and from QEMU's source.

As of 7.2, and where `Settings.version` is a later one with what has changed since (10.0.13 and
10.2.2 were read; what 8.2 and 11.1 changed is from their patches). Dirty-limit: from 10.2's source,
all vCPUs alike, rings that fill as fast as in the period before.

For `precopy` alone, of traces that know every write. It shares no code with the engine. Names are
those of QEMU's functions. Times are whole ns of the host, unless they end in `_ms`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MS = 10**6
FOREVER = 1 << 62


@dataclass(frozen=True)
class Guest:
    """Rows are (t, page), rows at 0 are the start; blocks are (name, pages) in migration order."""

    page_size: int
    blocks: list[tuple[str, int]]
    dirty: list[tuple[int, int]]
    zero: list[tuple[int, int]]
    duration_ns: int


@dataclass(frozen=True)
class Settings:
    max_bandwidth: int
    downtime_limit_ms: int
    line_rate: int
    zero_page_ns: int
    wake_ns: int
    stop_ns: int = 0
    device_bytes: int = 0
    manual: bool = False
    clear_chunk: int = 1 << 18
    #: trigger, initial, increment, max; tailslow.
    throttle: tuple[int, int, int, int] | None = None
    tailslow: bool = False
    sync_waits: bool = False
    #: A host that is busy: how late (ns) the sender's sleeps end, and by how much its iterations
    #: are slowed, each in turn.
    late_ns: tuple[int, ...] = (0,)
    slowed: tuple[int, ...] = (1,)
    version: tuple[int, int] = (7, 2)
    #: Bytes/s, from 8.2 on; 0 where it is not set.
    avail_switchover_bandwidth: int = 0
    #: MiB/s of each vCPU, period in ms, trigger, vCPUs, entries of a ring, those kept free.
    dirty_limit: tuple[int, int, int, int, int, int] | None = None


@dataclass
class QEMUFile:
    """migration/qemu-file.c: what is put waits in a buffer and in vectors until it is flushed."""

    iov: list[str] = field(default_factory=list)
    buf_index: int = 0
    put: int = 0
    transferred: int = 0
    #: Flushes because the byte of a header took the last vector.
    by_a_header: int = 0

    def qemu_put_byte(self) -> None:
        self.put += 1
        if self.iov and self.iov[-1] == "buf":
            pass
        elif self.add_to_iovec("buf"):
            self.by_a_header += 1
            return
        self.buf_index += 1
        if self.buf_index == 32768:
            self.qemu_fflush()

    def qemu_put_buffer(self, size: int) -> None:
        for _ in range(size):
            self.qemu_put_byte()

    def qemu_put_buffer_async(self, size: int) -> None:
        """A page is sent from where it lies; no page lies right behind what is in the buffer."""
        self.put += size
        self.add_to_iovec("page")

    def add_to_iovec(self, what: str) -> bool:
        self.iov.append(what)
        if len(self.iov) >= 64:
            self.qemu_fflush()
            return True
        return False

    def qemu_fflush(self) -> None:
        self.transferred = self.put
        self.iov.clear()
        self.buf_index = 0


@dataclass
class Migration:
    """One migration; `run` fills in what came of it."""

    guest: Guest
    settings: Settings
    now: int = 0
    sent: int = 0
    zeros: int = 0
    syncs: int = 0
    ram_bytes: int = 0
    copies: list[tuple[int, int]] = field(default_factory=list)
    throttles: list[tuple[int, int]] = field(default_factory=list)
    #: What a log shows: begin, begin of the last page with content, such pages, zero pages.
    iterations: list[tuple[int, int, int, int]] = field(default_factory=list)
    sync_times: list[tuple[int, int]] = field(default_factory=list)
    sleeps: int = 0
    stop: int | None = None

    def run(self) -> None:
        self.pages = [
            (b, p) for b, (_, count) in enumerate(self.guest.blocks) for p in range(count)
        ]
        self.number = {page: n for n, page in enumerate(self.pages)}
        self.bmap = dict.fromkeys(self.pages, True)
        self.content_zero = dict.fromkeys(self.pages, False)
        for t, n in self.guest.zero:
            if t <= 0:
                self.content_zero[self.pages[n]] = True
        self.log = dict.fromkeys(self.pages, self.settings.manual)
        self.harvested = dict(self.log)
        self.marked: set[tuple[int, int]] = set()
        self.rows = sorted(
            [(t, 0, n) for t, n in self.guest.dirty if t > 0]
            + [(t, 1, n) for t, n in self.guest.zero if t > 0],
            key=lambda row: row[:2],
        )
        self.slow = [(0, 0, 100)]
        self.dirtylimit_in_service = False
        self.ring: set[tuple[int, int]] = set()
        self.block, self.page = 0, 0
        self.last_sent_block: int | None = None
        self.file = QEMUFile()
        self.rate_limit_start = 0
        self.sync_timer_ms = 5000 if self.dirty_sync_timer else None
        self.sync_count_prev, self.sync_under_way = 0, None
        self.iteration_start_ms = self.iteration_initial_bytes = 0
        self.threshold_size = 0
        self.percent = self.high = 0
        self.period_ms = self.period_dirty = self.period_sent = 0
        self.migration_bitmap_sync()
        self.migration_thread()

    # The guest, up to and with everything at `host`.

    def guest_time(self, host: int) -> int:
        h0, g0, rate = self.slow[-1]
        return g0 + (host - h0) * rate // 100

    def let_guest_run(self, host: int) -> None:
        if self.stop is not None:
            return
        while self.dirtylimit_in_service:
            rated, full, wake = self.next_rate_ns, self.full_ns, self.wake_ns
            now = min(rated, full, wake)
            if now > host:
                break
            self.run_rows(now)
            if now == rated:
                self.vcpu_dirty_rate_stat(now)
            elif now == full:
                self.dirtylimit_vcpu_execute(now)
            else:
                self.kvm_cpu_exec(now)
        if self.sync_under_way is not None and self.sync_under_way <= host:
            end, self.sync_under_way = self.sync_under_way, None
            self.run_rows(end)
            self.end_sync(end)
            self.rearm_sync_timer(end)
        self.run_rows(host)

    def run_rows(self, host: int) -> None:
        while self.rows and self.rows[0][0] <= self.guest_time(host):
            _, kind, n = self.rows.pop(0)
            page = self.pages[n]
            if kind == 0:
                self.log[page] = True
                self.kvm_dirty_ring_push(page)
            self.content_zero[page] = kind == 1

    # system/dirtylimit.c of 10.2; all vCPUs alike

    def qmp_set_vcpu_dirty_limit(self) -> None:
        self.dirtylimit_in_service = True
        self.throttle_us_per_full = self.max_dirtyrate = self.ring_fill_ns = 0
        self.begin_rate_period(self.now)

    def begin_rate_period(self, host: int) -> None:
        self.ring.clear()
        self.ring_entries, self.period_guest_ns = 0, self.guest_time(host)
        self.kvm_cpu_exec(host)
        self.period_end_ns = host + self.settings.dirty_limit[1] * MS

    @property
    def next_rate_ns(self) -> int:
        """The period's rate is told after a sync, for which every vCPU has to come by."""
        return self.period_end_ns + self.dirtylimit_vcpu_execute_left(self.period_end_ns)

    def kvm_cpu_exec(self, host: int) -> None:
        """The vCPUs run from here on, their rings empty, and fill them in the usual time."""
        self.slow.append((host, self.guest_time(host), 100))
        self.emptied_ns, self.full_ns, self.wake_ns = host, FOREVER, FOREVER
        if self.throttle_us_per_full and self.ring_fill_ns < self.settings.dirty_limit[1] * MS:
            self.full_ns = host + self.ring_fill_ns

    def dirtylimit_vcpu_execute(self, host: int) -> None:
        self.slow.append((host, self.guest_time(host), 0))
        self.full_ns, self.wake_ns = FOREVER, host + self.throttle_us_per_full * 1000

    def dirtylimit_vcpu_execute_left(self, host: int) -> int:
        """How long a vCPU sleeps on that is kicked: usleep ends then, from 8.2 on g_usleep not."""
        if self.settings.version < (8, 2):
            return 0
        full, wake = self.full_ns, self.wake_ns
        while min(full, wake) <= host:
            if full <= host:
                full, wake = FOREVER, full + self.throttle_us_per_full * 1000
            else:
                full, wake = wake + self.ring_fill_ns, FOREVER
        return 0 if wake == FOREVER else wake - host

    def kvm_dirty_ring_push(self, page: tuple[int, int]) -> None:
        if self.dirtylimit_in_service and page not in self.ring:
            self.ring.add(page)
            self.ring_entries += 1
            _, _, _, vcpus, ring, reserved = self.settings.dirty_limit
            if len(self.ring) == (ring - reserved) * vcpus:
                self.ring.clear()

    def vcpu_dirty_rate_stat(self, host: int) -> None:
        quota, period_ms, _, vcpus, ring, reserved = self.settings.dirty_limit
        size = self.guest.page_size
        current = ((self.ring_entries // vcpus) * 1000 * size // 2**20) // period_ms
        low, high = min(quota, current), max(quota, current)
        if high - low > 25:
            self.dirtylimit_set_throttle(quota, current, (high - low) * 100 // high)
        if self.ring_entries >= 32 or (self.ring_entries > 0 and self.ring_fill_ns == 0):
            ran = self.guest_time(host) - self.period_guest_ns
            self.ring_fill_ns = ran * (ring - reserved) * vcpus // self.ring_entries
        self.begin_rate_period(host)
        percent, sleep_ns = 0, self.throttle_us_per_full * 1000
        if self.full_ns != FOREVER and sleep_ns:
            percent = sleep_ns * 100 // (self.ring_fill_ns + sleep_ns)
        if percent != (self.throttles[-1][1] if self.throttles else 0):
            self.throttles.append((host, percent))

    def dirtylimit_set_throttle(self, quota: int, current: int, off_percent: int) -> None:
        if current == 0:
            self.throttle_us_per_full = 0
            return
        self.max_dirtyrate = max(self.max_dirtyrate, current)
        ring_mib = self.settings.dirty_limit[4] * self.guest.page_size // 2**20
        ring_full_us = ring_mib * 1_000_000 // self.max_dirtyrate
        if off_percent > 50:
            throttle_us = ring_full_us * off_percent // (100 - off_percent)
        else:
            throttle_us = ring_full_us // 10
        self.throttle_us_per_full += throttle_us if quota < current else -throttle_us
        self.throttle_us_per_full = min(self.throttle_us_per_full, ring_full_us * 99)
        self.throttle_us_per_full = max(self.throttle_us_per_full, 0)

    # migration/ram.c

    def migration_bitmap_sync(self, *, by_timer: bool = False) -> None:
        self.let_guest_run(self.now)
        begin = self.now
        if self.dirtylimit_in_service and self.stop is None:
            self.now += self.dirtylimit_vcpu_execute_left(self.now)
            self.let_guest_run(self.now)
            self.kvm_cpu_exec(self.now)
        self.syncs += 1
        for page in self.pages:
            if self.log[page] and not self.bmap[page]:
                self.bmap[page] = True
                self.period_dirty += 1
        if self.settings.manual:
            self.harvested = dict(self.log)
            self.marked = {self.chunk(page) for page in self.pages}
        else:
            self.log = dict.fromkeys(self.pages, False)
        self.ring.clear()
        if by_timer:
            # The main loop's matter; the sender goes on.
            self.sync_under_way = self.vcpus_awake()
            self.sync_times.append((begin, self.sync_under_way))
            return
        self.memory_global_after_dirty_log_sync()
        self.sync_times.append((begin, self.now))
        self.end_sync(self.now)

    def end_sync(self, host: int) -> None:
        end_ms = host // MS
        if end_ms > self.period_ms + 1000:
            self.migration_trigger_throttle(host)
            self.period_ms, self.period_dirty = end_ms, 0
            self.period_sent = self.bytes_of_the_trigger

    def memory_global_after_dirty_log_sync(self) -> None:
        if self.vcpus_awake() > self.now:
            self.now = self.vcpus_awake()
            self.let_guest_run(self.now)

    def vcpus_awake(self) -> int:
        """When a vCPU comes by that may be asleep now."""
        if not (self.settings.sync_waits and self.throttles and self.stop is None):
            return self.now
        ticks = [(t, p) for t, p in self.timer_ticks if t <= self.now]
        tick, percent = ticks[-1]
        return max(self.now, tick + 10 * MS * percent // (100 - percent))

    # migration/cpu-throttle.c, from 9.2 on

    @property
    def dirty_sync_timer(self) -> bool:
        return self.settings.throttle is not None and self.settings.version >= (9, 2)

    def cpu_throttle_dirty_sync_timer_tick(self, due: int) -> None:
        """A sync waits until the sender lets go of the bitmaps' lock; all else needs no lock."""
        self.sync_timer_ms = None
        if self.syncs <= 1 or self.syncs != self.sync_count_prev:
            self.rearm_sync_timer(due)
            return
        self.now = max(self.now, due)
        self.migration_bitmap_sync(by_timer=True)
        self.let_guest_run(self.now)

    def rearm_sync_timer(self, host: int) -> None:
        self.sync_count_prev = self.syncs
        self.sync_timer_ms = host // MS + 5000

    def main_loop(self, until: int) -> None:
        """What timers do up to `until`, the sender being idle from now to then."""
        while True:
            if self.sync_under_way is not None and self.sync_under_way <= until:
                self.let_guest_run(self.sync_under_way)
            elif self.sync_timer_ms is not None and self.sync_timer_ms * MS <= until:
                self.cpu_throttle_dirty_sync_timer_tick(self.sync_timer_ms * MS)
            else:
                return

    @property
    def timer_ticks(self) -> list[tuple[int, int]]:
        """cpu_throttle_timer_tick: when, and at how many percent, up to now."""
        ticks, tick = [], self.throttles[0][0]
        while tick <= self.now:
            percent = [p for t, p in self.throttles if t <= tick][-1]
            ticks.append((tick, percent))
            tick += 10 * MS * 100 // (100 - percent)
        return ticks

    def migration_trigger_throttle(self, host: int) -> None:
        if self.settings.throttle is None and self.settings.dirty_limit is None:
            return
        trigger = (self.settings.dirty_limit or (0, 0, *self.settings.throttle))[2]
        dirtied = self.period_dirty * self.guest.page_size
        allowed = (self.bytes_of_the_trigger - self.period_sent) * trigger // 100
        if dirtied <= allowed:
            return
        self.high += 1
        if self.high < 2:
            return
        self.high = 0
        if self.settings.throttle is None:
            if not self.dirtylimit_in_service:
                self.qmp_set_vcpu_dirty_limit()
            return
        _, initial, increment, highest = self.settings.throttle
        before = self.percent
        if before == 0:
            self.percent = initial
        else:
            step = increment
            if self.settings.tailslow:
                cpu_now = 100 - before
                step = min(cpu_now - cpu_now * allowed // dirtied, increment)
            self.percent = min(before + step, highest)
        if self.percent != before:
            self.slow.append((host, self.guest_time(host), 100 - self.percent))
            self.throttles.append((host, self.percent))

    @property
    def bytes_of_the_trigger(self) -> int:
        """Bytes of RAM in 7.2; of the whole stream from 8.2 on, and under dirty-limit."""
        if self.settings.version < (8, 2) and self.settings.dirty_limit is None:
            return self.ram_bytes
        return self.migration_transferred_bytes

    def chunk(self, page: tuple[int, int]) -> tuple[int, int]:
        return page[0], page[1] // self.settings.clear_chunk

    def migration_bitmap_clear_dirty(self, page: tuple[int, int]) -> None:
        if self.chunk(page) in self.marked:
            self.marked.discard(self.chunk(page))
            for other in self.pages:
                if self.chunk(other) == self.chunk(page) and self.harvested[other]:
                    self.log[other] = False
        self.bmap[page] = False

    @property
    def migration_transferred_bytes(self) -> int:
        """Bytes count when they are put (qemu_file_credit_transfer), from 8.2 on when flushed."""
        return self.file.put if self.settings.version < (8, 2) else self.file.transferred

    def ram_find_and_save_block(self) -> bool:
        start = (self.block, self.page)
        complete_round = False
        while True:
            block_pages = self.guest.blocks[self.block][1]
            while self.page < block_pages and not self.bmap[self.block, self.page]:
                self.page += 1
            if complete_round and self.block == start[0] and self.page >= start[1]:
                return False
            if self.page < block_pages:
                break
            self.page = 0
            self.block += 1
            if self.block == len(self.guest.blocks):
                self.block, complete_round = 0, True
        self.ram_save_page((self.block, self.page))
        self.page += 1
        return True

    def ram_save_page(self, page: tuple[int, int]) -> None:
        """What it costs in time is counted from the iteration's start: floor of the whole."""
        self.let_guest_run(self.now)
        self.migration_bitmap_clear_dirty(page)
        self.copies.append((self.now, self.number[page]))
        size = 9 if self.content_zero[page] else self.guest.page_size + 8
        self.ram_bytes += size + self.save_page_header(page)
        if self.content_zero[page]:
            self.file.qemu_put_byte()
        else:
            self.file.qemu_put_buffer_async(self.guest.page_size)
        if self.content_zero[page]:
            self.zeros += 1
            self.run_zeros += 1
        else:
            self.sent += 1
            self.last_page = self.now
        self.run_bytes += size
        self.now = (
            self.run_start
            + self.run_bytes * 10**9 * self.slow_by // self.settings.line_rate
            + self.run_zeros * self.settings.zero_page_ns * self.slow_by
        )

    def save_page_header(self, page: tuple[int, int]) -> int:
        """Put it; return the bytes that name the block."""
        self.file.qemu_put_buffer(8)
        if self.last_sent_block == page[0]:
            return 0
        self.last_sent_block = page[0]
        named = 1 + len(self.guest.blocks[page[0]][0])
        self.file.qemu_put_buffer(named)
        return named

    def migration_rate_exceeded(self) -> bool:
        used = self.migration_transferred_bytes - self.rate_limit_start
        return used > self.settings.max_bandwidth // 10

    def ram_save_iterate(self) -> None:
        self.file.qemu_put_buffer(5)
        slowed = self.settings.slowed
        self.begin_run(slowed[len(self.iterations) % len(slowed)])
        sent, zeros, self.last_page = self.sent, self.zeros, self.now
        i = 0
        while not self.migration_rate_exceeded():
            if not self.ram_find_and_save_block():
                break
            if i % 64 == 0 and (self.now - self.run_start) // MS > 50:
                break
            i += 1
        counts = (self.sent - sent, self.zeros - zeros)
        self.iterations.append((self.run_start, self.last_page, *counts))
        self.file.qemu_put_buffer(8)
        self.ram_bytes += 8
        self.file.qemu_fflush()
        self.file.qemu_put_buffer(5)

    def begin_run(self, slow_by: int = 1) -> None:
        self.run_start, self.run_bytes, self.run_zeros = self.now, 0, 0
        self.slow_by = slow_by

    # migration/migration.c

    @property
    def pending(self) -> int:
        return sum(self.bmap.values()) * self.guest.page_size

    def migration_thread(self) -> None:
        while True:
            if not self.migration_rate_exceeded() and self.migration_iteration_run():
                return
            self.main_loop(self.now)
            self.migration_rate_limit()

    def migration_iteration_run(self) -> bool:
        version = self.settings.version
        wanted = self.pending <= self.threshold_size
        if version < (11, 1):
            wanted = self.pending < self.threshold_size
        if wanted:
            if self.guest_time(self.now) > self.guest.duration_ns:
                return True
            self.migration_bitmap_sync()
            self.main_loop(self.now)
        complete_ready = self.pending <= self.threshold_size
        if version < (10, 1):
            complete_ready = self.pending == 0 or self.pending < self.threshold_size
        if complete_ready:
            self.let_guest_run(self.now)
            self.migration_completion()
            return True
        self.ram_save_iterate()
        return False

    def migration_completion(self) -> None:
        """The last sync happens at the stop; nothing that follows can change what it finds."""
        self.stop = self.now
        self.migration_bitmap_sync()
        self.now += self.settings.stop_ns
        self.begin_run()
        while self.ram_find_and_save_block():
            pass
        self.now += self.settings.device_bytes * 10**9 // self.settings.line_rate

    def migration_update_counters(self) -> None:
        now_ms = self.now // MS
        if now_ms < self.iteration_start_ms + 100:
            return
        transferred = self.migration_transferred_bytes - self.iteration_initial_bytes
        took = now_ms - self.iteration_start_ms
        self.threshold_size = transferred * self.settings.downtime_limit_ms // took
        if self.settings.avail_switchover_bandwidth:
            bytes_a_ms = self.settings.avail_switchover_bandwidth // 1000
            self.threshold_size = bytes_a_ms * self.settings.downtime_limit_ms
        self.rate_limit_start = self.migration_transferred_bytes
        self.iteration_start_ms, self.iteration_initial_bytes = now_ms, self.rate_limit_start

    def migration_rate_limit(self) -> None:
        self.migration_update_counters()
        if self.migration_rate_exceeded():
            sleep_ms = self.iteration_start_ms + 100 - self.now // MS
            late = self.settings.late_ns[self.sleeps % len(self.settings.late_ns)]
            self.sleeps += 1
            wake = self.now + sleep_ms * MS + self.settings.wake_ns + late
            self.main_loop(wake)
            self.now = wake
            self.let_guest_run(self.now)
