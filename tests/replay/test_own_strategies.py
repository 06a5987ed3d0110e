"""Users' own strategies: how they are found, composed and guarded, and what is said of bad ones."""

from __future__ import annotations

import sys

import pytest

from replay.parameters import Parameters
from replay.policies import Accept, Fate, Request, View
from replay.policies.guard import guarded_accept, guarded_request
from replay.replay import replay
from replay.strategies import registered, strategy
from tests.analyses.traces import race
from tracer import Trace, UsageError
from tracer.errors import FloodError, ImpureError, PolicyError

HEAD = "from replay.policies import *\nfrom replay.strategies import Strategy\n"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write mine.py, the given lines after two of imports; return a strategy of it."""
    monkeypatch.chdir(tmp_path)

    def load(body, name="Mine"):
        (tmp_path / "mine.py").write_text(HEAD + body)
        return strategy(f"./mine.py:{name}")

    return load


@pytest.fixture
def raced(tmp_path):
    return Trace.open(race(tmp_path / "race.trace"))


def says(body, *, axis="Accept"):
    return f"class Mine({axis}):\n{body}\n"


# -- what is found ------------------------------------------------------------------------------


def test_an_accept_policy_is_composed_with_once(mine, raced):
    found = mine(says('    """All of them.\n\n    More."""'))
    assert (found.name, found.given, found.argument) == ("Mine", "./mine.py:Mine", "./mine.py:Mine")
    assert found.origin == "All of them. (./mine.py:Mine)"
    assert (found.request.name, found.accept.name) == ("once", "Mine")
    assert (found.start, found.sync, found.drain, found.hold) == ("eager", "none", False, "none")
    (run,) = replay(raced, found, Parameters())
    assert (run.result.strategy, run.result.reports_handled) == ("Mine", 1)


def test_a_request_policy_is_composed_with_tagged_and_both_with_each_other(mine):
    found = mine(says("    def at_sync(self):\n        return True", axis="Request"))
    assert (found.request.name, found.accept.name) == ("Mine", "tagged")
    assert found.request.at_sync() is True
    both = mine(says("    name = 'both'", axis="Accept, Request"))
    assert (both.request.name, both.accept.name) == ("both", "both")


def test_an_object_or_a_strategy_is_taken_as_it_is(mine, raced):
    body = (
        "class Older(Accept):\n"
        "    def __init__(self, syncs): self.syncs = syncs\n"
        "    def when_due(self, report):\n"
        "        return Fate.DROP if report.syncs_since_request > self.syncs else Fate.HANDLE\n"
        "two = Older(2)\n"
        "STRATEGY = Strategy('mine-async', 'a test', Once(), Older(9), sync='after')\n"
    )
    assert mine(body, "two").name == "two"
    found = mine(body, "STRATEGY")
    assert (found.name, found.origin) == ("mine-async", "a test")
    rows = [replay(raced, one, Parameters())[0] for one in (found, strategy("hint-async"))]
    assert rows[0].result.lost == rows[1].result.lost == 1
    assert rows[0].rounds[0].pages_sent == rows[1].rounds[0].pages_sent


def test_the_same_file_is_run_once_and_a_changed_one_again(mine, capsys):
    body = "print('loaded')\n" + says("    pass")
    first = mine(body)
    assert mine(body) is first
    assert capsys.readouterr() == ("", "loaded\n"), "data has stdout for itself"
    assert mine(body + "x = 1\n") is not first


def test_a_file_may_import_its_neighbours_and_hold_dataclasses(mine, tmp_path):
    (tmp_path / "dirtylog_neighbour.py").write_text("LIMIT = 3\n")
    body = (
        "from dataclasses import dataclass\nfrom dirtylog_neighbour import LIMIT\n"
        "@dataclass(frozen=True)\nclass Older(Accept):\n    syncs: int = LIMIT\n"
    )
    assert mine(body, "Older").accept.when_due(View(0, True, 0)) is Fate.HANDLE


def test_a_policy_without_a_name_has_its_classes():
    class Mine(Accept):
        pass

    class Other(Mine):
        name = "other"

    assert (Mine.name, Other.name) == ("Mine", "other")


# -- what is no strategy ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.py:Mine", "nowhere.py: no such file"),
        ("./nowhere.py", "./nowhere.py: no such file"),
        (".:Mine", ".: cannot be read"),
        ("./mine.py", r"say which of its strategies, ./mine.py:NAME with one of Mine, two$"),
        ("./mine.py:", "say which of its strategies"),
        ("./mine.py:Mien", "./mine.py defines no Mien; did you mean Mine"),
        ("./mine.py:odd", "./mine.py:odd is 5; wanted a Strategy"),
        ("./mine.py:Fate", "is <enum 'Fate'>; wanted a Strategy"),
        ("min\0e.py:Mine", "cannot be read"),
    ],
)
def test_what_is_not_there(mine, name, said):
    mine("odd = 5\n" + says("    pass") + "two = Mine()\n")
    with pytest.raises(UsageError, match=said):
        strategy(name)


def test_a_file_without_strategies(mine):
    with pytest.raises(UsageError, match="defines no strategy; wanted a Strategy"):
        mine("x = 1\n", "y")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def x(:\n", r"^\./mine\.py:3: SyntaxError: .*; the line reads `def x\(:`$"),
        ("import no_such_thing\n", r"^\./mine\.py:3: ModuleNotFoundError: No module .*no_such"),
        ("def f():\n    1 / 0\nf()\n", r"^\./mine\.py:4 in f: ZeroDivisionError: .*reads `1 / 0`$"),
        ("raise SystemExit(3)\n", r"^\./mine\.py:3: SystemExit: 3; the line"),
        ("import json\njson.loads('{')\n", r"^\./mine\.py:4: JSONDecodeError: .*json.loads"),
        ("x = '\0'\n", r"mine\.py.*null bytes"),
        (
            says("    def __init__(self, n): pass"),
            r"^\./mine\.py:Mine: TypeError: .*argument: 'n'$",
        ),
        (says("    name = 3"), "a policy's name is 3; wanted text"),
        (
            "Mine = Strategy('x', 'y', Once())\n",
            r"^\./mine\.py:3: .*request and accept go together",
        ),
        ("Mine = Strategy('x', 'y', start='later')\n", "start is 'later'; one of eager, wait"),
        ("Mine = Strategy('x', 'y', Once(), Once())\n", "accept is <.*Once.*derived from .*Accept"),
        ("Mine = Strategy('x', 'y', Once, Always)\n", "request is <class"),
        ("Mine = Strategy('', 'y')\n", "name is ''; wanted printable"),
        ("Mine = Strategy('x', 'y', drain='no')\n", "drain is 'no'; wanted a bool"),
        ("Mine = Strategy('hint-async', 'y')\n", "'hint-async' is the name of another"),
    ],
)
def test_a_file_that_does_not_load(mine, body, said):
    with pytest.raises(UsageError, match=said):
        mine(body)


def test_ctrl_c_passes(mine):
    with pytest.raises(KeyboardInterrupt):
        mine("raise KeyboardInterrupt\n")
    found = mine(says("    def when_due(self, report): raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        found.accept.when_due(View(0, True, 0))


# -- what misbehaves ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("when_due(self, report): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("when_due(self): pass", "TypeError: .* takes 1 positional"),
        ("when_due(self, report): return report._host", "AttributeError: .*_host"),
        ("when_due(self, report): return True", "it answered True; wanted Fate.HANDLE or"),
        ("when_due(self, report): return Fate.KEEP", "it answered <Fate.KEEP"),
        ("before_sync(self, report): return None", "it answered None; wanted Fate.KEEP or"),
        ("before_sync(self, report): return Fate.HANDLE", ".*HANDLE.*not queued yet"),
        ("when_due(self, report): exit(1)", "SystemExit: 1"),
    ],
)
def test_an_accept_policy_that_misbehaves(mine, raced, body, said):
    """In a replay; the error names the user's line."""
    hook = body.partition("(")[0]
    found = mine(says(f"    def {body}"))
    parameters = Parameters(report_delay_ns=10**9 if "not queued" in said else 10**7)
    with pytest.raises(PolicyError, match=rf"^\./mine\.py:4 in {hook}: {said}"):
        replay(raced, found, parameters)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("next_tick(self, now, interval_ns): return now", "it answered 0; wanted .* after now"),
        ("next_tick(self, now, interval_ns): return now + .5", "it answered 0.5; wanted a whole"),
        ("next_tick(self, now, interval_ns): return 1 << 61", "it answered 23.*below 2.61"),
        (
            "handling_time(self, due, interval_ns): return due - 1",
            "it answered 2999999; .*from 3000000",
        ),
        ("handling_time(self, due, interval_ns): return None", "it answered None"),
        ("at_sync(self): return 1", "it answered 1; wanted True or False"),
        ("when_done(self): return 'no'", "it answered 'no'; wanted True or False"),
        ("when_done(self): raise KeyError(7)", "KeyError: 7; the line reads `def when_done"),
    ],
)
def test_a_request_policy_that_misbehaves(mine, raced, body, said):
    hook = body.partition("(")[0]
    found = mine(says(f"    def {body}", axis="Request"))
    parameters = Parameters(report_delay_ns=10**6, max_rounds=5, downtime_limit_ns=0)
    with pytest.raises(PolicyError, match=rf"^\./mine\.py:4 in {hook}: {said}"):
        replay(raced, found, parameters)


COUNTS = """
    asked = 0

    def when_due(self, report):
        self.asked += 1
        return Fate.HANDLE
"""
LISTS = """
    asked = []

    def when_due(self, report):
        self.asked.append(1)
        return Fate.DROP if len(self.asked) > 1 else Fate.HANDLE
"""
GLOBAL = """
    def when_due(self, report):
        global asked
        asked = not asked
        return Fate.DROP if asked else Fate.HANDLE
asked = False
"""


@pytest.mark.parametrize("body", [COUNTS, LISTS, GLOBAL])
def test_a_policy_that_remembers_is_noticed(mine, body):
    def ask_twice(accept):
        return [accept.when_due(View(0, True, 0)) for _ in range(2)]

    accept = mine(says(body)).accept
    with pytest.raises(ImpureError, match=r"mine\.py:\d in when_due: .*what it is given alone"):
        ask_twice(accept)


@pytest.mark.parametrize(
    "deed",
    [
        "return Fate.HANDLE if random.random() < 0.5 else Fate.DROP",
        "return Fate.HANDLE if time.perf_counter_ns() // 50 % 2 else Fate.DROP",
        "SEEN.append(1); return Fate.HANDLE if len(SEEN) % 2 else Fate.DROP",
    ],
)
def test_a_replay_refuses_dice_a_clock_and_a_memory(mine, raced, deed):
    """Though one replay of the race asks for one report, and so asks once."""
    hook = f"    def when_due(self, report):\n        {deed}\n"
    own = mine("import random, time\nSEEN = []\n" + says(hook))
    with pytest.raises(
        ImpureError, match=r"in when_due: it answered .* to the same question again"
    ):
        replay(raced, own, Parameters())


def test_what_is_asked_again_is_printed_once(mine, raced, capsys):
    hook = "    def when_due(self, report):\n        print('asked')\n        return Fate.DROP\n"
    replay(raced, mine(says(hook)), Parameters())
    assert capsys.readouterr().err == "asked\n"


def test_a_policy_of_objects_that_cannot_be_shown_is_no_obstacle(mine):
    body = "class Odd:\n    def __repr__(self): raise ValueError\n"
    policy = "    odd = Odd()\n    def __init__(self): self.own = Odd()\n"
    accept = mine(body + says(policy + "    def when_due(self, report): return self.odd")).accept
    with pytest.raises(PolicyError, match="it answered a Odd; wanted"):
        accept.when_due(View(0, True, 0))


class Flood(Request):
    def next_tick(self, now, interval_ns):
        return now + 1


class Again(Request):
    def when_done(self):
        return True


@pytest.mark.parametrize(("request_axis", "delay"), [(Flood(), 10**6), (Again(), 0)])
def test_asking_without_end_is_refused(raced, monkeypatch, request_axis, delay):
    monkeypatch.setattr("replay.hints.MOST_AT_ONCE", 500)
    found = strategy("hint-async")
    found = type(found)("flood", "a test", request_axis, found.accept)
    delays = dict.fromkeys(("request_delay_ns", "report_delay_ns", "handle_delay_ns"), delay)
    with pytest.raises(FloodError, match="flood floods the guest: 500 reports"):
        replay(raced, found, Parameters(**delays))


def test_our_own_policies_need_no_guard():
    for one in registered().values():
        if one.hints:
            assert guarded_accept(one.accept) is one.accept
            assert guarded_request(one.request) is one.request


# -- installed packages -------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package of one module with the given entry points."""

    def install(body, **entries):
        (tmp_path / "own_package.py").write_text(HEAD + body)
        info = tmp_path / "own_package-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("[dirtylog.strategies]\n" + "\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    monkeypatch.delitem(sys.modules, "own_package", raising=False)
    registered.cache_clear()
    yield install
    sys.modules.pop("own_package", None)
    registered.cache_clear()


def test_an_installed_strategy_has_a_name_like_the_others(installed, raced):
    body = says("    pass") + "STRATEGY = Strategy('own-s', 'a test', Once(), Mine())\n"
    installed(body, own="own_package:Mine", other="own_package:STRATEGY")
    assert list(registered())[-2:] == ["own", "own-s"]
    assert strategy("own").accept.name == "Mine"
    (run,) = replay(raced, strategy("own-s"), Parameters())
    assert run.result.strategy == "own-s"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_package:Mine", "does not load: ModuleNotFoundError: No module named 'no_such"),
        ("own_package:Mien", "does not load: AttributeError"),
        ("own_package:Fate", "is <enum 'Fate'>; wanted a Strategy"),
        ("own_package:Bad", r"own_package\.py:\d in __init__: ValueError: no; the line reads"),
    ],
)
def test_an_installed_strategy_that_does_not_load(installed, value, said):
    bad = "class Bad(Accept):\n    def __init__(self):\n        raise ValueError('no')\n"
    installed(says("    pass") + bad, own=value)
    with pytest.raises(PolicyError, match=rf"installed strategy own \({value}\).*{said}"):
        strategy("own")
    assert strategy("hint-async"), "those of this package are there all the same"


def test_an_installed_strategy_may_not_take_a_name(installed):
    installed("STRATEGY = Strategy('hint-wait', 'a test')\n", own="own_package:STRATEGY")
    with pytest.raises(UsageError, match="two strategies are named 'hint-wait'"):
        registered()
