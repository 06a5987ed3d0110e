"""Traces where they lie: on a path, or in an object store such as s3:// or gs://.

A trace is replayed from mapped files, which an object store does not have. So a trace that lies in
one is copied, in pieces of a few MiB, into a cache on the machine that replays it, whole or not at
all; the cache is kept below a size by removing what was used longest ago.
"""

from __future__ import annotations

import fcntl
import os
import posixpath
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import pyarrow as pa
import xxhash
from pyarrow import fs

from tracer.errors import TraceError, UsageError
from tracer.files import whole_directory
from tracer.format import META, MIGRATION, SCHEMAS, Meta
from tracer.trace import Trace

_PIECE = 8 << 20
_PATIENCE = "retry_limit_seconds"
_TABLES = {f"{name}.arrow" for name in SCHEMAS}
_FILES = {META, MIGRATION, *_TABLES}


@dataclass(frozen=True)
class Header:
    """What is known of a trace before its rows are read.

    text: where it lies, as it can be opened from any folder. shown: the same as the user wrote it,
    without what may be secret in an address. digest: `Trace.digest`.
    """

    text: str
    shown: str
    meta: Meta
    digest: str
    has_freelist: bool

    @property
    def name(self) -> str:
        """The trace's name, as `Trace.name`."""
        return posixpath.basename(self.shown.rstrip("/")).removesuffix(".trace")


@dataclass(frozen=True)
class Cache:
    """A folder for copies, and how many bytes may lie there; a larger single trace is refused."""

    folder: Path
    limit: int


def is_remote(text: str) -> bool:
    """Whether the text is an address and no path."""
    return "://" in text


def shown(text: str) -> str:
    """Return a place without user, password and query, which can hold keys of a store."""
    if not is_remote(text):
        return text
    parts = urlsplit(text)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def found(text: str) -> Iterator[str]:
    """Yield the trace at a place or, where a folder lies there, every trace below it, sorted.

    Raises TraceError where there is none, UsageError for an address that cannot be opened.
    """
    if is_remote(text):
        yield from _found_in_store(text)
        return
    path = Path(text)
    if path.is_dir() and not (path / META).exists():
        below = sorted(str(file.parent) for file in path.rglob(META))
        if below:
            yield from below
            return
    yield text


def header(text: str, cache: Cache) -> Header:
    """Read a trace's header; of one in a store only that, if it has the digests of its files.

    Raises TraceError for what is no trace, OSError where the store does not answer.
    """
    if is_remote(text):
        meta, files = _listed(text)
        tables = _TABLES & files.keys()
        told = "freelist.arrow" not in tables or meta.freelist_resolution is not None
        if told and tables <= meta.digests.keys() <= files.keys() and "dirty.arrow" in tables:
            has_freelist = "freelist.arrow" in tables
            if not has_freelist:
                meta = replace(meta, freelist_resolution=None)
            digest = xxhash.xxh3_128_hexdigest(meta.to_json().encode())
            return Header(text, shown(text), meta, digest, has_freelist)
    with local(text, cache) as path:
        trace = Trace.open(path)
        where = text if is_remote(text) else str(path.absolute())
        return Header(where, shown(text), trace.meta, trace.digest, "freelist" in trace)


@contextmanager
def local(text: str, cache: Cache) -> Iterator[Path]:
    """Give a path from which the trace can be opened; once open it may be removed from the cache.

    Raises TraceError where no trace is, UsageError for one larger than the cache, OSError where
    the store does not answer.
    """
    if not is_remote(text):
        yield Path(text)
        return
    _, files = _listed(text)
    sizes = [(name, info.size, info.mtime_ns) for name, info in sorted(files.items())]
    key = xxhash.xxh3_128_hexdigest(repr((shown(text), sizes)).encode())
    needed = sum(size for _, size, _ in sizes)
    if needed > cache.limit:
        raise UsageError(
            f"{shown(text)}: takes {needed >> 20} MiB and the cache holds {cache.limit >> 20}; "
            "give it more room"
        )
    cache.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The name of what is replayed is that of the last folder.
    entry = cache.folder / key
    path = entry / (posixpath.basename(shown(text).rstrip("/")) or "trace")
    # One process of a machine copies and the others wait; nobody removes what is being opened.
    with (cache.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _make_room(cache, needed)
            with whole_directory(entry, force=True) as directory:
                _copy(files, directory / path.name)
        # To the ns: by itself the system's clock of files moves every few ms.
        now = time.time_ns()
        os.utime(entry, ns=(now, now))
        yield path


def forget(text: str, cache: Cache) -> None:
    """Remove a trace's copies, so that what went wrong on the way is not kept."""
    if is_remote(text):
        last = posixpath.basename(shown(text).rstrip("/")) or "trace"
        for entry in cache.folder.glob(f"*/{last}"):
            shutil.rmtree(entry.parent, ignore_errors=True)


def default_cache() -> Path:
    """Return a folder of the user's own among the machine's temporary files."""
    return Path(tempfile.gettempdir()) / f"dirtylog-traces-{os.getuid()}"


def _opened(text: str) -> tuple[fs.FileSystem, str]:
    parts = urlsplit(text)
    address = text
    if parts.scheme in ("gs", "gcs") and _PATIENCE not in parts.query:
        # Google's client would try for a quarter of an hour to reach a store that is not there.
        query = "&".join(filter(None, (parts.query, f"{_PATIENCE}=60")))
        address = urlunsplit(parts._replace(query=query))
    try:
        filesystem, path = fs.FileSystem.from_uri(address)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{shown(text)}: is no address of traces ({reason}); wanted a path, s3://BUCKET/... "
            "or gs://BUCKET/..."
        ) from None
    return filesystem, path.rstrip("/")


@contextmanager
def _answering(text: str) -> Iterator[None]:
    """Say of which address an error of its store is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = str(error).splitlines()[0].partition(" error_info=")[0]
        raise OSError(f"{shown(text)}: its store does not answer as it should ({reason})") from None


def _found_in_store(text: str) -> Iterator[str]:
    filesystem, path = _opened(text)
    # Without the last, Google's store raises an error that does not tell what is wrong.
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    with _answering(text):
        files = [info.path for info in filesystem.get_file_info(selector) if info.is_file]
    places = sorted(file.removesuffix("/" + META) for file in files if file.endswith("/" + META))
    if not places:
        raise TraceError(f"{shown(text)}: no trace lies here or below; wanted one with {META}")
    parts = urlsplit(text)
    for place in places:
        below = place.removeprefix(path)
        yield urlunsplit(parts._replace(path=parts.path.rstrip("/") + quote(below)))


def _listed(text: str) -> tuple[Meta, dict[str, _Stored]]:
    """Return a stored trace's header and its files by name."""
    filesystem, path = _opened(text)
    try:
        with _answering(text):
            infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
            files = {info.base_name: info for info in infos if info.is_file}
            with filesystem.open_input_stream(f"{path}/{META}") as stream:
                body = stream.read().decode("utf-8")
    except FileNotFoundError:
        raise TraceError(
            f"{shown(text)}: no trace lies here; wanted a folder with {META}"
        ) from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{shown(text)}/{META}: cannot be read ({error})") from None
    meta = Meta.from_json(body, f"{shown(text)}/{META}")
    return meta, {name: _Stored(filesystem, info) for name, info in files.items() if name in _FILES}


class _Stored:
    """A file in a store: its size in bytes, its time, and how to read it."""

    def __init__(self, filesystem: fs.FileSystem, info: fs.FileInfo):
        self.size, self.mtime_ns = info.size, info.mtime_ns
        self._filesystem, self._path = filesystem, info.path

    def copy(self, to: Path) -> None:
        with self._filesystem.open_input_stream(self._path) as source, to.open("wb") as target:
            while piece := source.read(_PIECE):
                target.write(piece)


def _copy(files: dict[str, _Stored], directory: Path) -> None:
    directory.mkdir()
    for name, file in files.items():
        file.copy(directory / name)


def _make_room(cache: Cache, needed: int) -> None:
    """Remove what was used longest ago; what is mapped stays readable for whoever maps it."""
    folders = [entry for entry in cache.folder.iterdir() if entry.is_dir()]
    for entry in folders:
        if entry.name.startswith("."):  # of a process that was killed while it copied
            shutil.rmtree(entry, ignore_errors=True)
    entries = sorted((e.stat().st_mtime_ns, e) for e in folders if not e.name.startswith("."))
    sizes = {
        entry: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        for _, entry in entries
    }
    there = sum(sizes.values())
    for _, entry in entries:
        if there + needed <= cache.limit:
            return
        shutil.rmtree(entry, ignore_errors=True)
        there -= sizes[entry]
