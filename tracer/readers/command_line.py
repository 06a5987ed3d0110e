"""What a QEMU's command line says of the guest, where a recording has kept it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

_RING = re.compile(r"(?:^|,)dirty-ring-size=(\d+)(?:,|$)")
_SMP = re.compile(r"--?smp")
#: With these the number of vCPUs may stand elsewhere.
_ELSEWHERE = re.compile(r"--?readconfig|(?:.*,)?smp\.\w+=.*")
_LEVELS = ("sockets", "dies", "clusters", "cores", "threads")


def vcpus(command: Sequence[str]) -> int | None:
    """Return how many vCPUs the guest starts with, None where that is not certain."""
    words = [word for word in command if _SMP.fullmatch(word) or _ELSEWHERE.fullmatch(word)]
    if not words:
        return 1
    if len(words) > 1 or not _SMP.fullmatch(words[0]):
        return None
    at = command.index(words[0]) + 1
    given = _smp(command[at]) if at < len(command) else None
    if given is None:
        return None
    if "cpus" in given:
        return given["cpus"] or None
    # QEMU gives levels that are left out one each, but for one that follows from maxcpus.
    return None if "maxcpus" in given else prod(given.get(name, 1) for name in _LEVELS)


def _smp(text: str) -> dict[str, int] | None:
    found = {}
    for number, part in enumerate(text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = "cpus" if number == 0 else "", part
        if not name or not value.isascii() or not value.isdigit():
            return None
        found[name] = int(value)
    return found


def dirty_ring_size(command: Sequence[str]) -> int | None:
    """Return the entries of each vCPU's dirty ring, None where the command line has none."""
    found = [match[1] for word in command if (match := _RING.search(word))]
    return int(found[-1]) if found else None


def facts_of(body: Mapping[str, Any]) -> dict[str, int]:
    """Return the vCPUs and the ring's size that a `migrate.json` names or its command line says."""
    line = body.get("cmdline")
    command = [str(word) for word in line] if isinstance(line, list) else None
    found = {}
    for key, read in (("vcpus", vcpus), ("dirty_ring_size", dirty_ring_size)):
        value = body.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            value = None if command is None else read(command)
        if value is not None and value > 0:
            found[key] = value
    return found
