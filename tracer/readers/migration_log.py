"""What `query-migrate` answered while a migration was recorded, and the little a trace keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracer.counters import check_answer
from tracer.errors import TraceError

#: Answers kept in a trace: enough to draw a curve, few enough to stay small.
_MOST_POLLS = 200


@dataclass(frozen=True)
class MigrationLog:
    """Answers of `query-migrate`, oldest first, and what was recorded about the migration."""

    path: Path | None = None
    final: Mapping[str, Any] = field(default_factory=dict)
    polls: Sequence[Mapping[str, Any]] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ram(self) -> Mapping[str, Any]:
        """The last `ram` section, of a final answer without one that of the last poll."""
        for answer in (self.final, *reversed(self.polls)):
            if isinstance(answer.get("ram"), Mapping):
                return dict(answer["ram"])
        return {}

    @property
    def page_size(self) -> int:
        """The target's page size in bytes, 4096 where no answer names it."""
        return self._number("page-size") or 4096

    @property
    def total(self) -> int | None:
        """The bytes of all RAM blocks, `ram.total`."""
        return self._number("total")

    @property
    def hinting(self) -> bool:
        """Whether free page hinting was on."""
        return bool(self.body.get("free-page-hint", False))

    @property
    def completed(self) -> bool:
        """Whether QEMU said that the migration completed."""
        return self.final.get("status") == "completed"

    @property
    def version(self) -> str | None:
        """QEMU's version, such as 7.2.22."""
        parts = self.body.get("qemu")
        if not isinstance(parts, Mapping):
            return None
        return ".".join(str(parts.get(key, "?")) for key in ("major", "minor", "micro"))

    def _number(self, key: str) -> int | None:
        value = self.ram.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or value < 1:
            raise TraceError(f'{self.path}: "{key}" of "ram" is {value!r}; wanted bytes')
        return value

    @property
    def throttles(self) -> list[tuple[int, int]]:
        """Host us and `cpu-throttle-percentage` of every answer that has both."""
        return [
            (round(float(poll["t"]) * 1_000_000), poll["cpu-throttle-percentage"])
            for poll in self.polls
            if "t" in poll and poll.get("cpu-throttle-percentage") in range(1, 100)
        ]

    def thinned(self, zero_us: int) -> list[dict[str, int]]:
        """Return at most 200 polls: host ns since `zero_us`, bytes remaining and transferred.

        The last of them is kept: it says when a cancelled migration's counters were read.
        """
        polls = [p for p in self.polls if isinstance(p.get("ram"), Mapping) and "t" in p]
        step = -(-len(polls) // _MOST_POLLS) or 1
        return [
            {
                "t_host_ns": (round(float(poll["t"]) * 1_000_000) - zero_us) * 1000,
                "remaining": int(poll["ram"].get("remaining", 0)),
                "transferred": int(poll["ram"].get("transferred", 0)),
            }
            for poll in polls[::-step][::-1]
        ]


def read_migration(path: Path | None) -> MigrationLog:
    """Read a `migrate.json`, or a text in which lines are `query-migrate` answers in JSON.

    Raises TraceError where the file cannot be read or holds neither, and for a counter that is no
    count; None gives an empty log.
    """
    if path is None:
        return MigrationLog()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read ({error})") from None
    try:
        body = json.loads(text)
    except ValueError as error:
        answers = _answers(text)
        if not answers:
            raise TraceError(
                f"{path}: neither JSON nor lines of query-migrate answers ({error})"
            ) from None
        return _checked(MigrationLog(path, answers[-1], answers))
    if not isinstance(body, dict) or not {"final", "polls", "parameters", "status"} & set(body):
        raise TraceError(
            f"{path}: no record of a migration; wanted an object with final, polls or parameters"
        )
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise TraceError(f'{path}: "parameters" is no object of names and values')
    polls = [p for p in body.get("polls") or [] if isinstance(p, dict)]
    final = body.get("final") or (body if "status" in body else (polls[-1] if polls else {}))
    return _checked(
        MigrationLog(
            path,
            final=final if isinstance(final, dict) else {},
            polls=polls,
            parameters=parameters,
            capabilities=_capabilities(body.get("capabilities")),
            body=body,
        )
    )


def _checked(log: MigrationLog) -> MigrationLog:
    for number, poll in enumerate(log.polls, 1):
        check_answer(poll, f"{log.path}, answer {number} of {len(log.polls)}")
    check_answer(log.final, f"{log.path}")
    return log


def _answers(text: str) -> list[dict[str, Any]]:
    answers = []
    for line in text.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and "status" in answer:
            answers.append(answer)
    return answers


def _capabilities(found: Any) -> dict[str, bool]:
    if isinstance(found, Mapping):
        return {str(name): bool(state) for name, state in found.items()}
    return {
        str(entry["capability"]): bool(entry.get("state"))
        for entry in found or []
        if isinstance(entry, Mapping) and "capability" in entry
    }
