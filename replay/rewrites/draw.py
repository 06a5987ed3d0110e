"""Scenario `expected`: the trace as it may have been, with what it hides drawn from the fit."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from replay.columns import Columns, columns_of, merged
from replay.grouped import grouped
from replay.rewrites.families import FAMILIES
from replay.rewrites.fit import Evidence, Fit, evidence, fit, tables, unseen
from replay.rewrites.kernels import OCTAVE, choose_cells, draw_hidden, draw_onward
from replay.rewrites.sightings import Sightings, sightings
from replay.rewrites.waits import next_after, same, together
from tracer.format import TableName
from tracer.rows import Flags, Int64s
from tracer.trace import Trace

#: Of the rewrites of a page none is drawn sooner than this after another: it would change nothing.
CLOSEST_NS = 20_000_000
#: How often the instants within an epoch and the fit are drawn from each other.
_TURNS = 3
_SHAPES = np.array([family.shape for family in FAMILIES], np.int64)


#: A report's block: 2^10 pages (VIRTIO_BALLOON_HINT_BLOCK_PAGES).
BLOCK_PAGES = 1 << 10


class Rewrites:
    """The hidden writes of one trace under one seed, fitted and drawn when first asked for.

    trace: validated. aside: int64, first pages of blocks that free page hinting dirtied while
    recording: the guest did not write them, and had them back no sooner than the migration's end.
    Takes memory in proportion to the dirty pages, unlike a replay.
    """

    def __init__(self, trace: Trace, seed: int = 0, aside: Int64s | None = None):
        self._trace = trace
        self._seed = seed
        self._aside = np.empty(0, np.int64) if aside is None else aside

    @property
    def fits(self) -> tuple[Fit, ...]:
        """The working-set model, fitted to the trace, one for each of `_classes`."""
        return self._fitted[1]

    @cached_property
    def expected(self) -> Trace:
        """The trace with hidden writes drawn.

        A page that was zero after its recorded write stays so with each rewrite; a page that is
        freed is written no more.
        """
        return self._with(*self._hidden_rows)

    def until(self, duration_ns: int) -> Trace:
        """Return the trace with hidden writes drawn and continued up to `duration_ns` (guest time).

        What is beyond its end is drawn from the same model, as if the guest went on alike; a page
        on the free list is taken when it is written, and none is freed any more.
        """
        pages, end = self._trace.meta.pages, self._trace.meta.duration_ns
        if duration_ns <= end or not len(self._known.page):
            return self.expected
        family, mean = self._all_cells
        last, stays = np.full(pages, -1, np.int64), np.zeros(pages, np.bool_)
        last[self._known.page] = self._drawn[2]
        stays[self._known.page] = self._stays[self._first[1:] - 1]
        t, page = draw_onward(
            self._rng(2), last, end, duration_ns, family, mean, _SHAPES, float(CLOSEST_NS)
        )
        more = (t, page, stays[page])
        t, page, zero = (np.concatenate(both) for both in zip(self._hidden_rows, more, strict=True))
        return self._with(t, page, zero, duration_ns)

    # -- the fit ------------------------------------------------------------------------------

    @cached_property
    def _classes(self) -> list[Flags]:
        """The pages, bool[pages], of each class; none is of two.

        Pages that were zero at the start are one: they had not been written for long, if ever, so
        that what is seen of the others says nothing of them.
        """
        steps = np.zeros(self._trace.meta.pages + 1, np.int32)
        for rows in self._trace.rows("zero"):
            start = rows.t <= 0
            np.add.at(steps, rows.page[start], 1)
            np.add.at(steps, rows.page[start] + rows.count[start], -1)
        fresh = np.cumsum(steps[:-1], dtype=np.int32) > 0
        return [pages for pages in (~fresh, fresh) if pages.any()]

    @cached_property
    def _fitted(self) -> tuple[Sightings, tuple[Fit, ...]]:
        """The sightings and the fits; of an `epoch` trace the one drawn from the other by turns."""
        seen = self._recorded
        if self._trace.meta.resolution != "epoch":
            return seen, self._fit(evidence(seen))
        rng, length = self._rng(4), seen.closes - seen.begins
        drawn = seen.begins + 1 + (rng.random(len(seen.t)) * (length - 1)).astype(np.int64)
        for _ in range(_TURNS):
            seen = seen.at(np.minimum(drawn, seen.closes - 1))
            known = evidence(seen)
            models = self._fit(known)
            mean = np.exp2(self._choice(models, known, rng)[1] / OCTAVE)
            mean = np.repeat(mean, np.diff(known.first) - 1)
            # The first of writes at random, given that there was one.
            some = -np.expm1(-length / mean)
            wait = -np.log1p(-rng.random(len(mean)) * some) * mean
            drawn = seen.begins + 1 + wait.astype(np.int64)
        return seen, models

    def _fit(self, known: Evidence) -> tuple[Fit, ...]:
        return tuple(
            fit(known, np.flatnonzero(pages[known.page]), int(pages.sum()), self._seed)
            for pages in self._classes
        )

    @cached_property
    def _recorded(self) -> Sightings:
        seen = sightings(self._trace)
        if not len(self._aside):
            return seen
        blocks = np.sort(self._aside)
        block = np.maximum(np.searchsorted(blocks, seen.page, side="right") - 1, 0)
        ahead = seen.page - blocks[block]
        return seen.only((ahead < 0) | (ahead >= BLOCK_PAGES))

    @property
    def _seen(self) -> Sightings:
        return self._fitted[0]

    @cached_property
    def _known(self) -> Evidence:
        return evidence(self._seen)

    @property
    def _first(self) -> Int64s:
        """Where each page's sightings begin, and where the last one's end."""
        return self._known.first - np.arange(len(self._known.first))

    @cached_property
    def _cells(self) -> tuple[Int64s, Int64s]:
        """Family and mean of each page that was seen."""
        return self._choice(self.fits, self._known, self._rng(0))

    def _choice(
        self, models: tuple[Fit, ...], known: Evidence, rng: np.random.Generator
    ) -> tuple[Int64s, Int64s]:
        uniform = rng.random(len(known.page))
        family, mean = np.empty_like(known.page), np.empty_like(known.page)
        for pages, model in zip(self._classes, models, strict=True):
            chosen = np.flatnonzero(pages[known.page])
            waits = known.first, known.age, known.wait, known.seen
            alike = same(chosen, *waits)
            cell = choose_cells(
                chosen, alike, np.argsort(alike, kind="stable"), *waits, model.family, model.mean,
                model.share, *tables(), uniform[chosen],
            )  # fmt: skip
            family[chosen], mean[chosen] = model.family[cell], model.mean[cell]
        return family, mean

    @cached_property
    def _all_cells(self) -> tuple[Int64s, Int64s]:
        """Family and mean of every page of the guest."""
        uniform = self._rng(3).random(self._trace.meta.pages)
        family, mean = np.empty(len(uniform), np.int64), np.empty(len(uniform), np.int64)
        for pages, model in zip(self._classes, self.fits, strict=True):
            row = unseen(self._seen.end, model.family, model.mean)
            likely = np.cumsum(model.share * np.exp(row - row.max()))
            cell = np.searchsorted(likely, uniform[pages] * likely[-1])
            cell = np.minimum(cell, len(row) - 1)
            family[pages], mean[pages] = model.family[cell], model.mean[cell]
        family[self._known.page], mean[self._known.page] = self._cells
        return family, mean

    # -- what is drawn ------------------------------------------------------------------------

    @cached_property
    def _drawn(self) -> tuple[Int64s, Int64s, Int64s]:
        """Hidden writes' times, after which sighting they come, and each seen page's last write."""
        seen, last = self._seen, np.zeros(len(self._known.page), np.int64)
        t, who = draw_hidden(
            self._rng(1), self._first, seen.t, seen.closes, self._until, seen.end, *self._cells,
            _SHAPES, *tables(), float(CLOSEST_NS), last,
        )  # fmt: skip
        return t, who, last

    @property
    def _hidden_rows(self) -> tuple[Int64s, Int64s, Flags]:
        """Hidden writes: times, pages, and whether they are of zeros."""
        t, who, _ = self._drawn
        return t, self._seen.page[who], self._stays[who]

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._seed, stream]))

    @cached_property
    def _until(self) -> Int64s:
        """Until when each sighting may be followed by hidden ones: its page is freed then."""
        seen, freed = self._seen, grouped(self._trace, "freelist", after=0)
        until: Int64s = next_after(seen.page, seen.t, freed.first, freed.t, seen.closes)
        return until

    @cached_property
    def _stays(self) -> Flags:
        """Return for each sighting whether its page is zero right after it."""
        seen, zeroed = self._recorded, grouped(self._trace, "zero", after=0)
        stays: Flags = together(seen.page, seen.t, zeroed.first, zeroed.t)
        return stays

    def _with(self, t: Int64s, page: Int64s, zero: Flags, duration_ns: int | None = None) -> Trace:
        """Return the trace with more writes, some of zeros."""
        trace = self._trace
        meta = replace(trace.meta, resolution="write")
        if duration_ns is not None:
            meta = replace(meta, duration_ns=duration_ns)
        if trace.meta.resolution == "epoch":
            # The recorded rows stand at the ends of their epochs: others take their place.
            rows = ((t, page, zero), (self._seen.t, self._seen.page, self._stays))
            t, page, zero = (np.concatenate(both) for both in zip(*rows, strict=True))
        more = {"dirty": (t, page), "zero": (t[zero], page[zero])}
        names: tuple[TableName, ...] = ("dirty", "freelist", "zero")
        tables = {}
        for name in (name for name in names if name in trace):
            columns = columns_of(trace, name)
            if name == "dirty" and trace.meta.resolution == "epoch":
                columns = {key: column[columns["t_ns"] <= 0] for key, column in columns.items()}
            if name == "freelist" and duration_ns is not None:
                columns = _with_takes(columns, trace, t, page)
            tables[name] = merged(columns, *more.get(name, ()))
        return Trace.from_tables(meta, trace.name, **tables)


def _with_takes(columns: Columns, trace: Trace, t: Int64s, page: Int64s) -> Columns:
    """Return a free list's columns with the takes of pages that are written beyond its end."""
    free = np.zeros(trace.meta.pages, np.bool_)
    for first, count, enters in zip(
        columns["page"].tolist(), columns["count"].tolist(), columns["free"].tolist(), strict=True
    ):
        free[first : first + count] = enters
    beyond = t > trace.meta.duration_ns
    t, page = t[beyond], page[beyond]
    order = np.argsort(t, kind="stable")
    page, first = np.unique(page[order], return_index=True)
    taken = free[page]
    when = t[order][first][taken]
    more: Columns = {
        "t_ns": when,
        "page": page[taken],
        "count": np.ones(len(when), np.int64),
        "free": np.zeros(len(when), np.bool_),
        "since_ns": when,
    }
    return {name: np.concatenate([column, more[name]]) for name, column in columns.items()}
