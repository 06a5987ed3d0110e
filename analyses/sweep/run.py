"""Keeping a sweep going: what is open, what is under way, what is tried again, what has failed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import groupby

from analyses.sweep.executors import Place
from analyses.sweep.plan import Plan, Task, code_version
from analyses.sweep.results import Folder
from analyses.sweep.worker import Outcome, work
from tracer.errors import DirtylogError
from tracer.places import Cache

#: A task that met with an error of the machine or of its surroundings is begun so often.
_TRIES = 3

Job = tuple[Task, ...]
#: Told how far it is.
Watch = Callable[["State"], None]


@dataclass
class State:
    """How far a sweep is.

    before: tasks that were done when it began. failed: key to reason. trouble: see `Place`.
    """

    total: int
    before: int = 0
    done: int = 0
    again: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    trouble: str = ""

    @property
    def settled(self) -> int:
        """Tasks of which nothing more is to come."""
        return self.before + self.done + len(self.failed)


def sweep(plan: Plan, place: Place, folder: Folder, cache: Cache, watch: Watch) -> State:
    """Do the tasks that are not done yet and keep what comes out of them in the folder.

    Raises DirtylogError where the place itself is lost; what is kept by then stays.
    """
    state = State(total=len(plan.tasks))
    known = set().union(*(folder.known(trace) for trace in plan.traces))
    queue = _Queue([task for task in plan.tasks if task.key not in known])
    state.before = state.total - len(queue)
    watch(state)
    tries: Counter[tuple[str, bool]] = Counter()  # of a task, by whether its process died
    running: dict[Future[list[Outcome]], Job] = {}
    while queue or running:
        while queue and len(running) < (room := 1 if queue.suspects_only else place.room()):
            job = queue.next(room)
            running[place.executor.submit(work, job, code_version(), cache)] = job
        ended, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
        for future in ended:
            job = running.pop(future)
            tasks = {task.key: task for task in job}
            outcomes = _outcomes(future, job, place)
            died = _died(future)
            suspect = died and place.blames_others
            if outcomes is None:  # one of them took the others along
                queue.put_one_by_one(job, suspect=suspect)
                state.again += 1
                continue
            folder.keep(job[0].trace, outcomes)
            limit = place.tries if died else _TRIES
            for outcome in outcomes:
                tries[outcome.key, died] += 1
                if outcome.problem is None:
                    state.done += 1
                elif outcome.again and tries[outcome.key, died] < limit:
                    queue.put_one_by_one([tasks[outcome.key]], suspect=suspect)
                    state.again += 1
                else:
                    state.failed[outcome.key] = _reason(outcome, tries[outcome.key, died])
        state.trouble = place.trouble() if queue or running else ""
        watch(state)
    return state


class _Queue:
    """The open tasks: in the plan's order, but what is tried again comes last, and one by one.

    Suspects, which may have taken down their process or another's, come after all others.
    """

    def __init__(self, tasks: Sequence[Task]):
        self._groups: deque[Job] = deque(_by_axes(tasks))
        self._traces = len({task.trace.digest for task in tasks})
        self._again: deque[Job] = deque()
        self._suspects: deque[Job] = deque()
        self._length = len(tasks)

    def __len__(self) -> int:
        return self._length

    @property
    def suspects_only(self) -> bool:
        """Whether nothing is open but what must be under way alone."""
        return len(self._suspects) == self._length > 0

    def next(self, room: int) -> Job:
        """Take a trace's tasks, its strategies with one set of parameters, or a single task.

        The fewer there are left, the smaller: what is opened, checked and drawn serves as many as
        can be, and no process idles for long in the end.
        """
        if not self._groups:
            job = (self._again or self._suspects).popleft()
        elif len(self._groups) >= 2 * room:
            job = self._groups.popleft()
            if self._traces >= 2 * room:
                while self._groups and self._groups[0][0].trace.digest == job[0].trace.digest:
                    job += self._groups.popleft()
        else:
            first, *rest = self._groups.popleft()
            job = (first,)
            if rest:
                self._groups.appendleft(tuple(rest))
        if not self._groups or self._groups[0][0].trace.digest != job[0].trace.digest:
            self._traces -= 1
        self._length -= len(job)
        return job

    def put_one_by_one(self, job: Sequence[Task], *, suspect: bool) -> None:
        (self._suspects if suspect else self._again).extend((task,) for task in job)
        self._length += len(job)


def _by_axes(tasks: Sequence[Task]) -> Iterator[Job]:
    for _, group in groupby(tasks, key=lambda task: (task.trace.digest, task.parameters)):
        yield tuple(group)


def _outcomes(future: Future[list[Outcome]], job: Job, place: Place) -> list[Outcome] | None:
    """Return a job's outcomes, also where its process died; None if that was one of several."""
    try:
        return future.result()
    except DirtylogError:
        raise
    except CancelledError:
        raise DirtylogError(
            f"{place.where} was lost; what is done is kept, and the same command goes on from it"
        ) from None
    except Exception as error:
        if len(job) > 1:
            return None
        return [Outcome(job[0].key, problem=_cause(error), again=True)]


def _died(future: Future[list[Outcome]]) -> bool:
    return future.exception() is not None


def _cause(error: Exception) -> str:
    if isinstance(error, BrokenProcessPool) or type(error).__name__ == "KilledWorker":
        return "its process died"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _reason(outcome: Outcome, tries: int) -> str:
    reason = outcome.problem or ""
    return f"{reason} ({tries} tries)" if tries > 1 else reason
