"""The one thread that owns the model: takes jobs in between passes, advances the engine, and hands events out.

A job that fails ends alone; where a whole pass fails, those in it end and the next ones get a new engine. Knows nothing
of HTTP or of prompts as text.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence

from mlx_diffusion.engine.drafting import DraftMemory
from mlx_diffusion.engine.engine import Engine
from mlx_diffusion.engine.memory_limits import memory_limits
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.pauses import pausing
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.engine.request import Request, check_request
from mlx_diffusion.errors import DiffusionError, OptionError
from mlx_diffusion.fit.draft_width import costs_here
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.serving.jobs import GoneError, Job, Outcome, ends, next_of
from mlx_diffusion.serving.limits import Limits
from mlx_diffusion.serving.prefix_folder import KeptOnDisk, PrefixFolder
from mlx_diffusion.serving.problems import RequestError, at_fault, ending, overloaded, too_late
from mlx_diffusion.tokenizer import Tokenizer

AHEAD = 8  # passes of jobs that take their own steps, ahead of the next part of a long prompt


class EngineThread:
    """Jobs of one model. `submit` and `drop` may be called from any thread, at any time."""

    def __init__(
        self,
        model: DiffusionGemma,
        tokenizer: Tokenizer,
        limits: Limits,
        prefix_bytes: int,
        log: Callable[[str], None],
        folder: PrefixFolder | None = None,
    ) -> None:
        """prefix_bytes: what may be kept of prompts that were encoded, in `folder` also for later; 0 keeps nothing."""
        self.model, self.tokenizer, self.limits, self._log = model, tokenizer, limits, log
        self.passes = 0  # of the network, since the start
        self.prefixes = PrefixStore(model, prefix_bytes) if prefix_bytes else None
        self._disk = None if self.prefixes is None or folder is None else KeptOnDisk(self.prefixes, folder, log)
        self._drafts = DraftMemory(costs_here(model))
        self._engine = Engine(model, tokenizer)
        self._running: dict[int, Job] = {}  # by their rows
        self._filling: list[Job] = []
        self._at_work: Job | None = None  # the one of them that takes a step now
        self._begun, self._ahead = False, 0  # whether that step has had a pass; passes of steps since the rows' last
        self._changed = threading.Condition()  # guards the three below
        self._waiting: deque[Job] = deque()
        self._dropped: set[Job] = set()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether jobs are answered, or will be once the thread has started."""
        return not self._ended

    @property
    def running(self) -> int:
        """Jobs that are rows of the engine, or take steps of their own."""
        return len(self._running) + len(self._filling)

    @property
    def waiting(self) -> int:
        """Jobs that are not yet rows."""
        return len(self._waiting)

    def submit(self, jobs: Collection[Job]) -> None:
        """Take in jobs, all or none. Raises OptionError or PromptError for what they would fail of, and RequestError
        where too many wait already."""
        for job in jobs:
            if job.wish.work is None:
                check_request(self.model, job.wish.settings, [len(job.wish.tokens)], None)
        with self._changed:
            if not self.alive:
                raise ending()
            taken = self.running + len(self._waiting) + len(jobs)
            if taken > self.limits.max_requests + self.limits.max_waiting:
                raise overloaded(len(self._waiting))
            self._waiting.extend(jobs)
            self._changed.notify()

    def drop(self, jobs: Collection[Job]) -> None:
        """Let jobs go, whatever they are at: none takes part in a pass that begins after this."""
        with self._changed:
            self._dropped.update(jobs)
            self._changed.notify()

    def stop(self) -> None:
        """End the thread behind the pass that is under way; jobs that are left fail."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with memory_limits():
                if self._disk is not None:
                    self._disk.read()
                while self._take_in():
                    self._advance()
                    self._fill()
        finally:
            with self._changed:
                self._ended = True
                left = [*self._running.values(), *self._filling, *self._waiting]
                self._running, self._filling, self._waiting = {}, [], deque()
            for job in left:
                job.close()
                job.deliver([ending()])
            if self._disk is not None:
                self._disk.close()

    def _take_in(self) -> bool:
        """Wait for work, and make rows of the jobs whose turn it is; False once the thread is to end."""
        self._wait()
        with self._changed:
            if self._ended:
                return False
            dropped, self._dropped = self._dropped, set()
            self._waiting = deque(job for job in self._waiting if job not in dropped)
            late = [job for job in self._waiting if job.until < time.monotonic()]
            self._waiting = deque(job for job in self._waiting if job not in late)
        for job in late:
            job.deliver([too_late(self.limits.answer_seconds)])
        for row, job in list(self._running.items()):
            if job in dropped or job.until < time.monotonic():
                self._engine.drop(row)
                self._end(row, [] if job in dropped else [too_late(self.limits.answer_seconds)])
        for job in [job for job in self._filling if job in dropped or job.until < time.monotonic()]:
            self._filling.remove(job)
            if job is not self._at_work:  # that one ends at its pause
                job.close()
            job.deliver([] if job in dropped else [too_late(self.limits.answer_seconds)])
        while self.waiting and self.running < self.limits.max_requests:
            with self._changed:
                job = self._waiting.popleft()
            self._begin(job)
        return True

    def _wait(self) -> None:
        """Return once there is work; prefixes are written to the disk while there is none."""
        while True:
            with self._changed:
                if self._changed.wait_for(self._has_work, None if self._disk is None else self._disk.waits):
                    return
            if self._disk is not None:
                self._disk.write()

    def _has_work(self) -> bool:
        return bool(self._ended or self._waiting or self._dropped or self.running)

    def _begin(self, job: Job) -> None:
        if job.wish.work is not None:
            self._filling.append(job)
            return
        try:
            self._running[self._engine.add(self._request(job))] = job
        except DiffusionError as error:
            job.deliver([RequestError(400, str(error))])
        except Exception:
            self._log(traceback.format_exc())
            job.deliver([at_fault()])

    def _request(self, job: Job) -> Request:
        tokens, settings, guide, _ = job.wish
        draws = SeededDraws.of(settings.seed, self.model.config.vocab_size)
        prefixes = self.prefixes
        try:
            check_request(self.model, settings, [len(tokens)], prefixes)
        except OptionError:  # this prompt alone would pass the store's budget
            prefixes = None
        return Request(tuple(tokens), settings, draws, prefixes=prefixes, drafts=self._drafts, guide=guide)

    def _advance(self) -> None:
        """One pass, if there are rows whose turn it is; what comes of it goes to their jobs."""
        if not self._running or (self._filling and self._engine.is_half_way and self._ahead < AHEAD):
            return
        self._ahead = 0
        try:
            events = self._engine.advance()
        except BaseException:  # the tokenizers library panics with no Exception
            self._log(traceback.format_exc())
            self._engine = Engine(self.model, self.tokenizer)
            for row in list(self._running):
                self._end(row, [at_fault()])
            return
        self.passes += 1
        outcomes: dict[int, list[Outcome]] = defaultdict(list)
        for event in events:
            if self._running[event.row].wants(event):
                outcomes[event.row].append(event)
        for row, error in self._engine.failed.items():
            outcomes[row].append(RequestError(500, str(error)))
        for row, found in outcomes.items():
            if ends(found[-1]):
                self._end(row, found)
            else:
                self._running[row].deliver(found)

    def _fill(self) -> None:
        """One step of each job that takes its own; between the passes of a step, the rows take theirs."""
        for job in list(self._filling):
            if job not in self._filling:
                continue  # it has left in a pause of another
            assert job.wish.work is not None
            self._at_work, self._begun = job, False
            try:
                with pausing(self._pause):
                    outcome = next_of(job.wish.work)
            except GoneError:
                continue
            except BaseException:
                self._log(traceback.format_exc())
                outcome = at_fault()
            finally:
                self._at_work = None
            if ends(outcome):
                self._filling.remove(job)
            if isinstance(outcome, RequestError) or job.wants(outcome):
                job.deliver([outcome])

    def _pause(self) -> None:
        """Ahead of each pass of a job's own work: others come, go and advance. Raises GoneError where it has to end."""
        if not (self._take_in() and self._at_work in self._filling):
            raise GoneError
        if self._begun:
            self._advance()
        self._begun = True
        self._ahead += 1
        self.passes += 1

    def _end(self, row: int, outcomes: Sequence[Outcome]) -> None:
        self._running.pop(row).deliver(outcomes)
