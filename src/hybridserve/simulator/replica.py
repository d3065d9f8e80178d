"""A replica: vLLM's scheduler with its times, slots and blocks.

Steps without prefill are not simulated one by one: while no sequence finishes and none crosses a block boundary, the
batch does not change, and the time of `k` steps of `n` sequences with `c` tokens of context is a closed form::

    k * (fixed + per_sequence * n + per_context * c) + per_context * n * k * (k - 1) / 2

So a request needs a few events instead of one for each token, and a million requests take minutes. Steps with prefill
are simulated one by one.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import sqrt

from hybridserve.autoscaling.replica_metrics import ReplicaMetrics
from hybridserve.settings.slo import NO_SLO, LatencySLO
from hybridserve.simulator.service_times import ServiceTimes


class SimulatedRequest:
    """A request and its state. Times in seconds, NaN before they happen."""

    __slots__ = ("admitted", "arrived", "blocks", "done", "epoch", "first", "last", "left", "output", "prompt",
                 "refused", "start")  # fmt: skip

    def __init__(self, arrived: float, prompt: int, output: int) -> None:
        self.arrived = arrived
        self.prompt = prompt
        self.output = output
        self.done = 0  # tokens generated before the current residence in the cache
        self.left = prompt  # prompt tokens still to compute, after a preemption with the generated ones
        self.blocks = 0  # held in the cache
        self.start = 0  # step at which token `done` + 1 came out
        self.refused = False
        self.epoch = 0  # residences in the cache; events of earlier residences are void
        self.admitted = self.first = self.last = float("nan")

    @property
    def ttft(self) -> float:
        """Seconds from the arrival to the first token."""
        return self.first - self.arrived

    @property
    def inter_token(self) -> float:
        """Mean seconds between tokens."""
        return (self.last - self.first) / max(1, self.output - 1)


class Replica:
    """A replica with its queue.

    Args:
        times: the calibration, with its cache section.
        name: id in the metrics.
        ready_at: when it takes requests.
        slo: targets of a request; those that miss one are counted.
    """

    __slots__ = (
        "_admit_order", "_aligned", "_block", "_budget", "_events", "_fixed", "_grow", "_max_seqs", "_per_context",
        "_per_prompt", "_per_sequence", "_state", "_tie", "_unit", "arrived", "backlog", "blocks_free", "blocks_total",
        "context", "decoding", "done", "first_tokens", "generated", "late", "name", "now", "preemptions", "prefilling",
        "prompt_squares", "prompt_tokens", "ready_at", "refused", "slo", "slot_seconds", "step", "waiting",
    )  # fmt: skip

    def __init__(self, times: ServiceTimes, name: str, ready_at: float, slo: LatencySLO = NO_SLO) -> None:
        cache = times.cache
        assert cache is not None
        self.name = name
        self.ready_at = ready_at
        self.now = ready_at
        self.step = 0
        self.waiting: deque[SimulatedRequest] = deque()
        self.prefilling: deque[SimulatedRequest] = deque()
        self.decoding = 0
        self.context = 0  # tokens in the cache of decoding sequences
        self.blocks_total = self.blocks_free = cache.usable_blocks
        self.backlog = 0
        self.preemptions = 0
        self.arrived = 0
        self.refused = 0
        self.done: list[SimulatedRequest] = []  # finished, until the fleet takes them
        self.first_tokens: list[float] = []  # times to first token, likewise
        self.prompt_tokens = self.generated = 0
        self.prompt_squares = 0.0
        self.slot_seconds = 0.0
        self.slo = slo
        self.late = 0
        self._admit_order: dict[SimulatedRequest, None] = {}  # running sequences, oldest first
        # (step, 0 for the last token or 1 for a block boundary, tie, residence, request)
        self._events: list[tuple[int, int, int, int, SimulatedRequest]] = []
        self._tie = 0
        self._fixed = times.step.fixed_s
        self._per_sequence = times.step.per_sequence_s
        self._per_context = times.step.per_context_token_s
        self._per_prompt = times.step.per_prompt_token_s
        self._max_seqs = times.engine.max_num_seqs
        self._budget = times.engine.max_num_batched_tokens
        self._block = cache.block_size
        self._state = cache.state_blocks
        self._grow = cache.growing_groups
        self._aligned = times.engine.align_prefill and self._block <= self._budget
        self._unit = times.engine.prefix_match_unit if self._aligned else None

    @property
    def ongoing(self) -> int:
        """Unfinished requests."""
        return len(self._admit_order) + len(self.waiting)

    def push(self, request: SimulatedRequest, now: float) -> None:
        """Add a request. The replica was advanced to `now`."""
        if now > self.now:
            self.now = now
        self.arrived += 1
        self.backlog += request.left
        self.waiting.append(request)

    def advance(self, until: float) -> None:
        """Run until `until`, or until idle. The step at `until` is finished: it cannot be interrupted."""
        while self.now < until:
            if self.waiting:
                self._admit()
            if self.prefilling:
                self._mixed_step()
            elif self.decoding:
                self._decode(until)
            else:
                self.now = until

    def metrics(self, age_s: float = 0.0) -> ReplicaMetrics:
        """The metrics of its engine."""
        running = len(self._admit_order)
        return ReplicaMetrics(
            self.name,
            age_s=age_s,
            running=running,
            waiting=len(self.waiting),
            blocks_used=self.blocks_total - self.blocks_free,
            state_blocks_used=running * self._state,
            prefill_backlog=self.backlog,
            preemptions=self.preemptions,
            arrived=self.arrived + self.refused,
            finished=self.arrived - self.ongoing,
            prompt_tokens=self.prompt_tokens,
            prompt_squares=self.prompt_squares,
            generated=self.generated,
            slot_seconds=self.slot_seconds,
            late=self.late + self.refused,
        )

    def _admit(self) -> None:
        """In order of arrival while a slot and the blocks of the whole prompt are free."""
        waiting, running = self.waiting, self._admit_order
        budget = self._budget - self.decoding
        for request in self.prefilling:
            budget -= self._chunk(request, budget) if self._unit else request.left
        while waiting and budget > 0 and len(running) < self._max_seqs:
            request = waiting[0]
            blocks = self._state + self._grow * -(-request.left // self._block)
            if blocks > self.blocks_free:
                if running:
                    return
                raise ValueError(f"a request of {request.left} tokens does not fit into {self.blocks_total} blocks")
            waiting.popleft()
            budget -= self._chunk(request, budget) if self._unit else request.left
            request.blocks = blocks
            self.blocks_free -= blocks
            running[request] = None
            self.prefilling.append(request)
            if request.admitted != request.admitted:
                request.admitted = self.now

    def _mixed_step(self) -> None:
        """A step with a token for every decoding sequence, and prompt chunks up to the token budget."""
        budget = self._budget - self.decoding
        computed, finished = 0, []
        for request in self.prefilling:
            chunk = self._chunk(request, budget)
            if chunk <= 0:
                break  # an aligned chunk that does not fit delays the requests behind it
            request.left -= chunk
            budget -= chunk
            computed += chunk
            if not request.left:
                finished.append(request)
            elif not self._unit:
                break
        self.backlog -= computed
        self.now += (
            self._fixed
            + self._per_sequence * (self.decoding + len(finished))
            + self._per_context * self.context
            + self._per_prompt * computed
        )
        self.step += 1
        self.context += self.decoding
        self.generated += self.decoding + len(finished)
        for request in finished:
            self.prefilling.remove(request)
            self.decoding += 1
            self.context += request.prompt + request.done
            request.start = self.step
            if request.done == 0:
                request.first = self.now
                self.first_tokens.append(self.now - request.arrived)
            self._schedule(request, 0)
        self._fire()

    def _chunk(self, request: SimulatedRequest, budget: int) -> int:
        """Prompt tokens of its next step, of at most `budget`. Source: vLLM's `_mamba_block_aligned_split`."""
        if not self._aligned:
            return min(request.left, budget)
        total = request.prompt + request.done
        start = total - request.left
        end = min(total, start + budget)
        if end < total:
            end -= end % self._block
        if self._unit:
            stops = (total - total % self._block, total - total % self._unit)
            end = min((stop for stop in stops if start < stop < end), default=end)
        return end - start

    def _decode(self, until: float) -> None:
        """Steps without prefill, up to the next event or `until`."""
        steps = self._events[0][0] - self.step
        n = self.decoding
        first = self._fixed + self._per_sequence * n + self._per_context * self.context
        growth = self._per_context * n
        seconds = steps * first + growth * steps * (steps - 1) / 2
        left = until - self.now
        if seconds > left:
            if growth > 0:
                b = first - growth / 2
                fewer = (sqrt(b * b + 2 * growth * left) - b) / growth
            else:
                fewer = left / first
            steps = min(steps, max(1, int(fewer) + 1))
            seconds = steps * first + growth * steps * (steps - 1) / 2
        self.now += seconds
        self.step += steps
        self.context += n * steps
        self.generated += n * steps
        self._fire()

    def _schedule(self, request: SimulatedRequest, generated: int) -> None:
        """Add the next event of a decoding sequence: its last token, or the token that needs a new block.

        `generated` counts the tokens after the first of this residence.
        """
        to_go = request.output - request.done - 1 - generated
        length = request.prompt + request.done + generated
        to_boundary = -length % self._block + 1 if self._grow else to_go
        self._tie += 1
        # In the same step last tokens come first: a finished sequence frees its blocks.
        ends = to_go <= to_boundary
        event = (self.step + (to_go if ends else to_boundary), 0 if ends else 1, self._tie, request.epoch, request)
        heappush(self._events, event)

    def _fire(self) -> None:
        """Process the events at the end of this step: last tokens, and sequences that need a block."""
        events = self._events
        while events and events[0][0] <= self.step:
            _, boundary, _, epoch, request = heappop(events)
            if epoch != request.epoch:
                continue
            if not boundary:
                self._finish(request)
                continue
            while self.blocks_free < self._grow and request.epoch == epoch:
                self._preempt()
            if request.epoch == epoch:
                self.blocks_free -= self._grow
                request.blocks += self._grow
                self._schedule(request, self.step - request.start)
        # Void events of preempted sequences must not limit the next steps.
        while events and events[0][3] != events[0][4].epoch:
            heappop(events)

    def _release(self, request: SimulatedRequest) -> None:
        self.blocks_free += request.blocks
        request.blocks = 0
        request.epoch += 1
        del self._admit_order[request]

    def _stop_decoding(self, request: SimulatedRequest) -> None:
        self.decoding -= 1
        self.context -= request.prompt + request.done + self.step - request.start

    def _finish(self, request: SimulatedRequest) -> None:
        self._stop_decoding(request)
        self._release(request)
        request.last = self.now
        self.prompt_tokens += request.prompt
        self.prompt_squares += request.prompt * request.prompt
        self.slot_seconds += self.now - request.admitted
        queued_s, prefill_s = request.admitted - request.arrived, request.first - request.admitted
        self.late += self.slo.late(queued_s, prefill_s, request.inter_token, request.prompt)
        self.done.append(request)

    def _preempt(self) -> None:
        """Preempt the newest sequence. It restarts with its generated tokens as prompt."""
        request = next(reversed(self._admit_order))
        self.preemptions += 1
        if request in self.prefilling:
            self.prefilling.remove(request)
            self.backlog -= request.left
        else:
            self._stop_decoding(request)
            request.done += self.step - request.start + 1
        self._release(request)
        request.left = request.prompt + request.done
        self.backlog += request.left
        self.waiting.appendleft(request)
