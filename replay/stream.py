"""The stream that QEMU's sender puts its pages into, and which of its bytes QEMU counts.

What a page puts is its header and, of one with content, the page itself (save_page_header,
save_zero_page, save_normal_page). Up to 8.1 all that counts at once. From 8.2 on it counts when it
is flushed (qemu_fflush): headers wait in a buffer, pages where they lie, until one of both is full
or an iteration ends. So a window goes on to the next flush, which comes after 32 pages with content
or some thousand zero pages.
"""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated"

from __future__ import annotations

import numpy as np

from replay import kernels as k
from replay.engine import Migration
from replay.kernels.bits import lowest
from replay.link import HEADER_BYTES, ZERO_PAGE_BYTES
from tracer.compiled import compiled
from tracer.rows import Int64s

#: Bytes around the pages of an iteration: savevm's section header; the end of RAM and a footer.
HEAD_BYTES, EOS_BYTES, FOOT_BYTES = 5, 8, 5
#: The file's state: vectors in use, whether the last is of the buffer, bytes in the buffer, all
#: bytes put, those flushed, the block of the last page.
_VECTORS, _BUFFERED, _INDEX, _PUT, _FLUSHED, _BLOCK = range(6)
#: Vectors and bytes of the buffer of a file (MAX_IOV_SIZE, IO_BUF_SIZE).
_MOST_VECTORS, _BUFFER = 64, 32768
#: So many pages are looked for at a time.
_AT_ONCE = 1 << 14


@compiled
def _small(file, size):  # type: ignore[no-untyped-def]
    """Put `size` bytes into the buffer (qemu_put_byte, add_buf_to_iovec)."""
    while size > 0:
        if not file[_BUFFERED]:
            file[_VECTORS] += 1
            file[_BUFFERED] = 1
            if file[_VECTORS] == _MOST_VECTORS:
                # The byte that takes the last vector goes out with it.
                file[_PUT] += 1
                size -= 1
                _flush(file)
                continue
        fits = min(size, _BUFFER - file[_INDEX])
        file[_INDEX] += fits
        file[_PUT] += fits
        size -= fits
        if file[_INDEX] == _BUFFER:
            _flush(file)


@compiled
def _flush(file):  # type: ignore[no-untyped-def]
    """qemu_fflush."""
    file[_FLUSHED] = file[_PUT]
    file[_VECTORS] = file[_BUFFERED] = file[_INDEX] = 0


@compiled
def _put(file, pages, held, blocks, header, page_size):  # type: ignore[no-untyped-def]
    """Put pages in this order; held: words of which the bits of those with content are set."""
    for page in pages:
        _small(file, header)
        block = file[_BLOCK]
        if page < blocks[0, block] or page >= blocks[1, block]:
            block = 1
            while page >= blocks[1, block]:
                block += 1
            file[_BLOCK] = block
            _small(file, blocks[2, block])
        if held[page >> 6] >> np.uint64(page & 63) & np.uint64(1):
            file[_VECTORS] += 1
            file[_BUFFERED] = 0
            file[_PUT] += page_size
            if file[_VECTORS] == _MOST_VECTORS:
                _flush(file)
        else:
            _small(file, 1)


@compiled
def _upcoming(pending, cursor, most):  # type: ignore[no-untyped-def]
    """Return up to `most` of the pending pages from `cursor` on, in order."""
    found, number = np.empty(most, np.int64), 0
    word, words = cursor >> 6, len(pending)
    if word >= words:
        return found[:0]
    todo = pending[word] >> np.uint64(cursor & 63) << np.uint64(cursor & 63)
    while number < most:
        if todo == np.uint64(0):
            word += 1
            if word == words:
                break
            todo = pending[word]
            continue
        found[number] = (word << 6) + lowest(todo)
        number += 1
        todo &= todo - np.uint64(1)
    return found[:number]


class Stream:
    """What counts as soon as it is put: QEMU up to 8.1."""

    def __init__(self, migration: Migration):
        self.migration = migration
        self.iterations = 0

    @property
    def put(self) -> int:
        """All bytes put so far."""
        around = HEAD_BYTES + EOS_BYTES + FOOT_BYTES
        return self.migration.bytes_sent + self.iterations * around

    @property
    def counted(self) -> int:
        """Those of them that QEMU counts for its windows."""
        return self.put

    def begin(self) -> None:
        """Begin an iteration."""

    def end(self) -> None:
        """End it."""
        self.iterations += 1

    def sweep(self, until: int, size: int, copies: int) -> int:
        """Sweep in an iteration, beginning no page once more than `size` bytes count.

        Nor once `copies` have been made in all. Returns what `Migration.sweep` does.
        """
        migration = self.migration
        migration.limit(size - self.put - HEAD_BYTES + migration.bytes_sent, copies)
        return migration.sweep(until)


class FlushedStream(Stream):
    """What counts when it is flushed: QEMU from 8.2 on."""

    def __init__(self, migration: Migration, page_size: int, blocks: Int64s):
        super().__init__(migration)
        self._blocks, self._page_size = blocks, page_size
        self._file = np.zeros(6, np.int64)
        self._longest = page_size + HEADER_BYTES + int(blocks[2].max())
        self._longest_zero = ZERO_PAGE_BYTES + int(blocks[2].max())

    @property
    def counted(self) -> int:
        """Those that have been flushed."""
        return int(self._file[_FLUSHED])

    def begin(self) -> None:
        """Begin an iteration (save_section_header)."""
        _small(self._file, HEAD_BYTES)

    def end(self) -> None:
        """End it: the end of RAM is flushed, the footer not (ram_save_iterate)."""
        _small(self._file, EOS_BYTES)
        _flush(self._file)
        _small(self._file, FOOT_BYTES)
        super().end()

    def sweep(self, until: int, size: int, copies: int) -> int:
        """Sweep as `Stream.sweep` does."""
        migration, file, memory = self.migration, self._file, self.migration.memory
        while True:
            before = migration.copies
            most = min(self._surely(size), copies - before)
            if most <= 0:
                return k.SPENT
            cursor = int(memory.ctl[k.CURSOR])
            pages = _upcoming(memory.state[:, k.PENDING], cursor, most)
            migration.limit(copies=before + most)
            status = migration.sweep(until)
            # What a page held when it was sent is what the destination holds now.
            sent, held = pages[: migration.copies - before], memory.state[:, k.HELD]
            _put(file, sent, held, self._blocks, HEADER_BYTES, self._page_size)
            if status != k.SPENT:
                return status

    def _surely(self, size: int) -> int:
        """Return how many pages may be begun whatever they hold, until more than `size` count."""
        file = self._file
        if file[_FLUSHED] > size:
            return 0
        left = size - int(file[_PUT])
        if left >= 0:
            return min(left // self._longest + 1, _AT_ONCE)
        # All of these fit in beside what waits already.
        vectors = (_MOST_VECTORS - int(file[_VECTORS])) // 2
        room = (_BUFFER - 1 - int(file[_INDEX])) // self._longest_zero
        return max(min(vectors, room), 1)
