"""What a trace is on disk: the names, the Arrow schemas and the header (the model, section 1)."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import pyarrow as pa

from tracer.errors import TraceError, VersionError

FORMAT = "dirty-page-trace"
VERSION = 1
SUFFIX = ".trace"
META = "meta.json"
MIGRATION = "migration.json"

#: A guest of 2^40 pages of 4 KiB is 4 PiB; page arithmetic stays far inside int64.
MAX_PAGES = 1 << 40
#: So that `page_size * 1e9` stays inside int64 (the link's fixed-point step).
MAX_PAGE_SIZE = 1 << 32
MAX_DURATION_NS = 1 << 61

Resolution = Literal["write", "first-write", "epoch"]
FreelistResolution = Literal["event", "sampled"]
TableName = Literal["dirty", "freelist", "zero", "epochs"]

_T = pa.field("t_ns", pa.int64(), nullable=False)
_PAGE = pa.field("page", pa.uint64(), nullable=False)
_RUN = pa.field("count", pa.uint64(), nullable=False)

SCHEMAS: Mapping[TableName, pa.Schema] = {
    "dirty": pa.schema([_T, _PAGE, pa.field("count", pa.uint32(), nullable=False)]),
    "freelist": pa.schema([_T, _PAGE, _RUN, pa.field("free", pa.bool_(), nullable=False)]),
    "zero": pa.schema([_T, _PAGE, _RUN]),
    "epochs": pa.schema([_T]),
}
#: The free list of a trace whose `freelist_resolution` is "sampled".
SAMPLED_FREELIST = SCHEMAS["freelist"].append(pa.field("since_ns", pa.int64(), nullable=False))


@dataclass(frozen=True)
class Block:
    """A RAM block: `pages` pages from dense index `first_page`; blocks are in migration order."""

    name: str
    first_page: int
    pages: int


@dataclass(frozen=True)
class Meta:
    """The header of a trace, `meta.json` (the model, section 1).

    Sizes are in bytes, times in nanoseconds of guest time since the trace began. `digests` maps
    a file name to the xxh3-128 digest of its bytes; a trace written elsewhere may lack them.
    """

    page_size: int
    pages: int
    duration_ns: int
    blocks: tuple[Block, ...]
    resolution: Resolution
    freelist_resolution: FreelistResolution | None = None
    quantum_ns: int = 1
    hinting: bool = False
    source: Mapping[str, Any] = field(default_factory=dict)
    clock: str = "guest"
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of `meta.json`."""
        body = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(body, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Meta:
        """Read `meta.json`; `where` names the file in errors.

        Raises TraceError for anything that is not such a header, VersionError for a version
        other than 1.
        """
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{where}: not JSON ({error}); is this a trace?") from None
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            found = body.get("format") if isinstance(body, dict) else body
            raise TraceError(f'{where}: "format" is {found!r}, not {FORMAT!r}; this is no trace')
        if type(body.get("version")) is not int or body["version"] != VERSION:
            raise VersionError(
                f"{where}: version {body.get('version')!r}; this dirtylog reads version {VERSION}: "
                "update dirtylog or record anew"
            )
        return _checked(body, where)


def _checked(body: dict[str, Any], where: str) -> Meta:
    def integer(key: str, low: int, high: int, default: int | None = None) -> int:
        value = body.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise TraceError(f'{where}: "{key}" is {value!r}; wanted an integer {low}..{high}')
        return value

    def choice(key: str, allowed: tuple[Any, ...]) -> Any:
        value = body.get(key)
        if value not in allowed:
            wanted = ", ".join(repr(a) for a in allowed)
            raise TraceError(f'{where}: "{key}" is {value!r}; wanted one of {wanted}')
        return value

    pages = integer("pages", 1, MAX_PAGES)
    source = body.get("source", {})
    hinting = body.get("hinting", False)
    if not isinstance(hinting, bool):
        raise TraceError(f'{where}: "hinting" is {hinting!r}; wanted true or false')
    digests = body.get("digests") or {}
    files = {MIGRATION, *(f"{name}.arrow" for name in SCHEMAS)}
    if not isinstance(digests, dict) or not digests.keys() <= files:
        raise TraceError(f'{where}: "digests" names other files than {", ".join(sorted(files))}')
    return Meta(
        page_size=integer("page_size", 1, MAX_PAGE_SIZE),
        pages=pages,
        duration_ns=integer("duration_ns", 0, MAX_DURATION_NS),
        blocks=_blocks(body.get("blocks"), pages, where),
        resolution=choice("resolution", get_args(Resolution)),
        freelist_resolution=choice("freelist_resolution", (*get_args(FreelistResolution), None)),
        quantum_ns=integer("quantum_ns", 0, MAX_DURATION_NS, default=1),
        hinting=hinting,
        source=source if isinstance(source, dict) else {"recorder": source},
        clock=str(body.get("clock", "guest")),
        digests=digests,
    )


def _blocks(found: Any, pages: int, where: str) -> tuple[Block, ...]:
    """Blocks must tile 0..pages-1 in order, so that page numbers map back without a gap."""
    if found is None:
        return (Block("ram", 0, pages),)
    blocks, expected = [], 0
    try:
        for entry in found:
            first, count = operator.index(entry["first_page"]), operator.index(entry["pages"])
            block = Block(str(entry["name"]), first, count)
            if block.first_page != expected or block.pages < 1:
                raise TraceError(
                    f"{where}: block {block.name!r} begins at page {block.first_page} with "
                    f"{block.pages} pages; wanted it to begin at {expected} and not be empty"
                )
            expected += block.pages
            blocks.append(block)
    except (TypeError, KeyError):
        raise TraceError(f'{where}: "blocks" is no list of {{name, first_page, pages}}') from None
    if expected != pages:
        raise TraceError(f'{where}: blocks hold {expected} pages, "pages" says {pages}')
    return tuple(blocks)
