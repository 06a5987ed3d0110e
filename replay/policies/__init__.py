"""The policies that strategies are composed of, one file each.

A request policy says when the guest is asked for a report, an accept policy what becomes of a
report. They decide and do nothing else: whoever drives them, a replay or a search over all
interleavings, asks the same questions.
"""

from replay.policies.always import Always
from replay.policies.base import Accept, Fate, Policy, ReportView, Request, View
from replay.policies.every_sync import EverySync
from replay.policies.first_pass import FirstPass
from replay.policies.flush import Flush
from replay.policies.flush_before import FlushBefore
from replay.policies.once import Once
from replay.policies.periodic import Periodic
from replay.policies.resubmit import Resubmit
from replay.policies.tagged import Tagged

#: Request policies by name, for `--request`.
REQUESTS: dict[str, type[Request]] = {
    policy.name: policy for policy in (Once, EverySync, Periodic, Resubmit)
}

#: Accept policies by name.
ACCEPTS: dict[str, type[Accept]] = {
    policy.name: policy for policy in (Always, FirstPass, Flush, FlushBefore, Tagged)
}


def axis_of(request: Request) -> str | None:
    """Return what `--request` calls a policy, None for one of the user's own."""
    return request.name if type(request) is REQUESTS.get(request.name) else None


__all__ = [
    "ACCEPTS",
    "REQUESTS",
    "Accept",
    "Always",
    "EverySync",
    "Fate",
    "FirstPass",
    "Flush",
    "FlushBefore",
    "Once",
    "Periodic",
    "Policy",
    "ReportView",
    "Request",
    "Resubmit",
    "Tagged",
    "View",
    "axis_of",
]
