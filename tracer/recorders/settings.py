"""What a migration is run with: parameters, capabilities, and what QEMU says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracer.errors import UsageError
from tracer.recorders.qmp import Monitor, Refused

_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


class Settings:
    """Parameters and capabilities of a QEMU, set for one migration and set back after it."""

    def __init__(self, monitor: Monitor):
        self._monitor = monitor
        self._old_parameters: dict[str, Any] = {}
        self._old_capabilities: dict[str, bool] = {}

    async def apply(self, parameters: Mapping[str, Any], capabilities: Mapping[str, bool]) -> None:
        """Set them; texts become what QEMU has now. Raises UsageError, RecordError."""
        have = {c["capability"]: c["state"] for c in await self.capabilities()}
        for name in capabilities:
            if name not in have:
                raise UsageError(
                    f"this QEMU has no migration capability {name}; it has {', '.join(have)}"
                )
        await self._refusable("migrate-set-capabilities", _states(capabilities))
        self._old_capabilities = {name: have[name] for name in capabilities}
        now = await self._monitor.do("query-migrate-parameters")
        wanted = {name: _typed(name, value, now) for name, value in parameters.items()}
        if wanted:
            await self._refusable("migrate-set-parameters", wanted)
        self._old_parameters = {name: now[name] for name in wanted if name in now}

    async def restore(self) -> None:
        """Set back what `apply` changed."""
        await self._monitor.do("migrate-set-capabilities", _states(self._old_capabilities))
        if self._old_parameters:
            await self._monitor.do("migrate-set-parameters", self._old_parameters)

    async def capabilities(self) -> Sequence[Mapping[str, Any]]:
        """Return QEMU's list of capabilities and their states."""
        found: Sequence[Mapping[str, Any]] = await self._monitor.do("query-migrate-capabilities")
        return found

    async def _refusable(self, command: str, arguments: Mapping[str, Any]) -> None:
        """Set what the user asked for; what QEMU does not take does not fit."""
        try:
            await self._monitor.do(command, arguments)
        except Refused as error:
            raise UsageError(str(error)) from None

    async def facts(self, command: Sequence[str]) -> dict[str, Any]:
        """Return what `migrate.json` says of the guest, the QEMU and the settings."""
        monitor = self._monitor
        version = await monitor.do("query-version")
        memory = await monitor.attempt("query-memory-size-summary") or {}
        machine = await monitor.attempt("qom-get", {"path": "/machine", "property": "type"})
        capabilities = await self.capabilities()
        facts: dict[str, Any] = {
            "qemu": version["qemu"],
            "free-page-hint": any(hint for _, hint in await balloons(monitor)),
            "auto-converge": any(
                c["state"] for c in capabilities if c["capability"] == "auto-converge"
            ),
            "parameters": await monitor.do("query-migrate-parameters"),
            "capabilities": capabilities,
        }
        if machine:
            facts["machine"] = machine
        size = memory.get("base-memory", 0)
        if size and size % (1 << 20) == 0:
            facts["guest_mb"] = size >> 20
        cpus = await monitor.attempt("query-cpus-fast")
        if cpus:
            facts["vcpus"] = len(cpus)
        if command:
            facts["cmdline"] = list(command)
        return facts


def _states(states: Mapping[str, bool]) -> dict[str, Any]:
    return {"capabilities": [{"capability": n, "state": state} for n, state in states.items()]}


async def balloons(monitor: Monitor) -> list[tuple[str, bool]]:
    """Return the guest's virtio balloons: their place in QEMU's tree, and free page hinting."""
    found = []
    for place in ("/machine/peripheral", "/machine/peripheral-anon"):
        for entry in await monitor.attempt("qom-list", {"path": place}) or []:
            if "virtio-balloon" in entry["type"]:
                path = f"{place}/{entry['name']}"
                hint = await monitor.attempt(
                    "qom-get", {"path": path, "property": "free-page-hint"}
                )
                found.append((path, bool(hint)))
    return found


async def check_hinting(monitor: Monitor) -> None:
    """Raise UsageError if no balloon of the guest hints free pages."""
    if not any(hint for _, hint in await balloons(monitor)):
        raise UsageError(
            "the guest has no balloon with free page hinting; give it "
            "-object iothread,id=io0 -device virtio-balloon-pci,free-page-hint=on,iothread=io0"
        )


def _typed(name: str, value: Any, now: Mapping[str, Any]) -> Any:
    """Return a parameter's text as what QEMU takes: a number, yes or no, or the text."""
    if not isinstance(value, str):
        return value
    kind = type(now[name]) if name in now else None
    if kind in (bool, None) and value in _WORDS:
        return _WORDS[value]
    if kind in (int, None) and value.isascii() and value.isdigit():
        return int(value)
    if kind in (bool, int):
        wanted = "on or off" if kind is bool else "a number"
        raise UsageError(f"migration parameter {name} is {value!r}; wanted {wanted}")
    return value
