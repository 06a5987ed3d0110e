"""The compiled loops of the working-set model: likelihoods of pages, and hidden writes drawn."""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated,no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np

from tracer.compiled import compiled

#: As in `waits`.
OCTAVE, FINE = 8, 32
#: The lowest bin of a table, relative to the mean interval, and how many there are.
LOWEST = -10 * OCTAVE
A_BINS = 18 * OCTAVE
X_BINS = 20 * OCTAVE

#: So many kinds of waits are kept (a power of two), looked for in so many places.
_KEPT, _PROBES, _SPREAD = 1 << 16, 16, 0x9E3779B97F4A7C1

#: How many courses of an epoch are drawn, of which one is kept, by how well the next sighting fits.
_COURSES = 6
#: How often an interval is drawn that must be longer than the silence so far.
_TRIES = 32

#: No more writes of a page are drawn after one sighting, and beyond the recording: spread, they
#: leave no longer gaps than matter, however long an epoch or a continuation.
_MOST_HIDDEN, _MOST_ONWARD = 256, 4096


@compiled
def _bin(number, lowest, size):
    relative = number - lowest
    return 0 if relative < 0 else (size - 1 if relative >= size else relative)


@compiled
def _terms(age, wait, seen, family, mean, density, silence, row):
    """Fill float64[cells] with the logarithm of the likelihood of one wait."""
    ln_octave = np.log(2.0) / OCTAVE
    for cell in range(len(row)):
        f, m = family[cell], mean[cell]
        a = A_BINS if age < 0 else _bin(age - m, LOWEST, A_BINS)
        ahead = wait - m * FINE
        x = _bin(ahead // FINE, LOWEST, X_BINS)
        if seen:
            # The density is per mean interval: make it one per unit of the wait's logarithm.
            row[cell] = density[f, a, x] + ahead * ln_octave / FINE
        else:
            part = ahead % FINE / FINE
            row[cell] = (1 - part) * silence[f, a, x] + part * silence[f, a, x + 1]


@compiled
def _room(cells):
    """Return where the terms of waits are kept: keys, -1 for none, and terms beside them."""
    return np.full(_KEPT, -1), np.empty((_KEPT, cells)), np.empty(cells)


@compiled
def page_likelihoods(start, stop, age, wait, seen, family, mean, density, silence, room, row):
    """Fill float64[cells] with the logarithm of the likelihood of one page's waits."""
    keys, kept, spare = room
    row[:] = 0.0
    for i in range(start, stop):
        # Most waits have been met before: as many pages, and few bins.
        key = (np.int64(age[i]) + 1) << 17 | np.int64(wait[i]) << 1 | np.int64(seen[i])
        slot = (key * _SPREAD >> 20) & (_KEPT - 1)
        tries = 0
        while keys[slot] != key and keys[slot] != -1 and tries < _PROBES:
            slot = (slot + 1) & (_KEPT - 1)
            tries += 1
        terms = kept[slot] if keys[slot] == key or keys[slot] == -1 else spare
        if keys[slot] != key:
            _terms(np.int64(age[i]), np.int64(wait[i]), seen[i], family, mean, density, silence,
                   terms)  # fmt: skip
            if keys[slot] == -1:
                keys[slot] = key
        for cell in range(len(row)):
            row[cell] += terms[cell]


@compiled
def likelihoods(chosen, first, age, wait, seen, family, mean, density, silence, rows):
    """Fill float64[pages, cells] for the chosen pages (indexes into `first`)."""
    room = _room(len(family))
    for number in range(len(chosen)):
        page = chosen[number]
        page_likelihoods(
            first[page], first[page + 1], age, wait, seen, family, mean, density, silence, room,
            rows[number],
        )  # fmt: skip


@compiled
def weigh(row, share):
    """Make of the logarithms of likelihoods the weights (Bayes) of each cell and all before it."""
    peak, total = row.max(), 0.0
    for cell in range(len(row)):
        total += share[cell] * np.exp(row[cell] - peak)
        row[cell] = total


@compiled
def cell_of(row, uniform):
    """Return a cell drawn by its weight; `row` are the sums of `weigh`."""
    wanted = uniform * row[-1]
    low, high = 0, len(row) - 1
    while low < high:
        middle = (low + high) // 2
        if row[middle] >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


@compiled
def choose_cells(
    chosen, alike, order, first, age, wait, seen, family, mean, share, density, silence, uniform
):
    """Return int64[len(chosen)], a cell for each of the chosen pages (indexes into `first`).

    alike: the same number for pages of which the same is known. order: indexes into `chosen`, by
    which these come together.
    """
    cells = np.empty(len(chosen), np.int64)
    room, row = _room(len(family)), np.empty(len(family))
    for place in range(len(order)):
        number = order[place]
        if place == 0 or alike[number] != alike[order[place - 1]]:
            page = chosen[number]
            page_likelihoods(
                first[page], first[page + 1], age, wait, seen, family, mean, density, silence, room,
                row,
            )  # fmt: skip
            weigh(row, share)
        cells[number] = cell_of(row, uniform[number])
    return cells


@compiled
def _interval(rng, shape, mean):
    """Draw the ns from one write to the next."""
    if shape == 1:
        return mean * rng.standard_exponential()
    return mean * rng.standard_gamma(float(shape)) / shape


@compiled
def _rest(rng, shape, mean):
    """Draw the ns to the next write from a moment that knows nothing of the page."""
    # As many of its phases are over as not.
    left = shape - np.floor(rng.random() * shape)
    return mean * rng.standard_gamma(left) / shape


@compiled
def _fits(f, m, last, closes, following, seen, density, silence):
    """Return the logarithm of how well what follows an epoch fits to its last write."""
    least = _bin(_log_bin(max(closes - last, 1)) - m, LOWEST, X_BINS)
    wait = _log_bin(max(following - last, 1)) - m
    # The age is 0: the last write is known in this course.
    table = density if seen else silence
    return table[f, 0, _bin(wait, LOWEST, X_BINS)] - silence[f, 0, least]


@compiled
def _log_bin(ns):
    return int(np.floor(np.log2(ns) * OCTAVE))


@compiled
def _put(t, page, number, when, who):
    """Append to arrays that grow; return them."""
    if number == len(t):
        more_t, more_page = np.empty(2 * number, np.int64), np.empty(2 * number, np.int64)
        more_t[:number], more_page[:number] = t, page
        t, page = more_t, more_page
    t[number], page[number] = when, who
    return t, page


@compiled
def draw_hidden(
    rng, first, t, closes, until, end, family, mean, shapes, density, silence, closest, last
):
    """Draw each page's hidden writes; return int64 times and indexes of sightings, page by page.

    first: int64[pages + 1] into the sightings (t, when their epoch closes, until when they may be
    followed by hidden ones). family, mean: int64[pages]. shapes: int64[families]. last:
    int64[pages], is filled with each page's last write.
    """
    out_t, out_who = np.empty(1024, np.int64), np.empty(1024, np.int64)
    number = 0
    course, best = np.empty(64, np.int64), np.empty(64, np.int64)
    for page in range(len(first) - 1):
        f, m = family[page], mean[page]
        shape = shapes[f]
        interval = 2.0 ** (m / OCTAVE)
        for i in range(first[page], first[page + 1]):
            final = i + 1 == first[page + 1]
            following = end if final else t[i + 1]
            # What comes after a page was freed says nothing of what came before.
            bridged = until[i] == closes[i] and closes[i] < end and shape != 1
            total, kept = 0.0, 0
            least = max(closest, (until[i] - t[i]) / _MOST_HIDDEN)
            for _ in range(_COURSES if bridged else 1):
                now, steps = t[i], 0
                while True:
                    gap = _interval(rng, shape, interval)
                    # Beyond the recording: float to int64 must not overflow.
                    now += np.int64(min(max(gap, least), 4e18 - now))
                    if now >= until[i]:
                        break
                    if steps == len(course):
                        grown = np.empty(2 * steps, np.int64)
                        grown[:steps] = course
                        course = grown
                    course[steps] = now
                    steps += 1
                weight = 1.0
                if bridged:
                    before = course[steps - 1] if steps else t[i]
                    weight = np.exp(
                        _fits(f, m, before, closes[i], following, not final, density, silence)
                    )
                total += weight
                if rng.random() * total < weight:
                    best, course, kept = course, best, steps
            for step in range(kept):
                out_t, out_who = _put(out_t, out_who, number, best[step], i)
                number += 1
            last[page] = best[kept - 1] if kept else t[i]
    return out_t[:number], out_who[:number]


@compiled
def draw_onward(rng, last, end, until, family, mean, shapes, closest):
    """Draw writes from `end` to `until` of pages last written at `last` (-1: never seen).

    Returns int64 times and indexes of pages, page by page.
    """
    out_t, out_who = np.empty(1024, np.int64), np.empty(1024, np.int64)
    number = 0
    for page in range(len(last)):
        shape = shapes[family[page]]
        interval = 2.0 ** (mean[page] / OCTAVE)
        quiet = np.float64(end - max(last[page], 0))
        gap = 0.0
        for _ in range(_TRIES):
            unseen = last[page] < 0
            gap = _rest(rng, shape, interval) if unseen else _interval(rng, shape, interval)
            if gap > quiet:
                break
        else:
            gap = quiet + interval * rng.standard_exponential()
        now = np.float64(end) + (gap - quiet)
        least = max(closest, (until - end) / _MOST_ONWARD)
        while now <= until:
            out_t, out_who = _put(out_t, out_who, number, max(np.int64(now), end + 1), page)
            number += 1
            gap = _interval(rng, shape, interval)
            now += max(gap, least)
    return out_t[:number], out_who[:number]
