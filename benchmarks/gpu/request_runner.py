"""Drive one engine step by step: decode steps, prefill, and complete requests."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from typing import Any


class RequestRunner:
    """Sends requests to one engine and steps it, one scheduler step at a time."""

    def __init__(self, llm: Any) -> None:
        self.engine = llm.llm_engine
        self.core = self.engine.engine_core.engine_core
        self.serial = 0
        self.seen: dict[str, int] = {}

    def add(self, length: int, tokens: int, instant: bool, prompt: list[int] | None = None) -> str:
        """Add a request of `length` prompt tokens; `instant` skips its prefill. Returns its id."""
        from vllm import SamplingParams

        self.serial += 1
        name = f"r{self.serial}"
        extra = {"kv_transfer_params": {"instant": True}} if instant else None
        params = SamplingParams(
            max_tokens=tokens, min_tokens=0, ignore_eos=True, detokenize=False, temperature=1.0, extra_args=extra
        )
        if prompt is None:
            # Every prompt differs from its first block on, so that prefix caching finds nothing.
            prompt = self.prompt(length)
        self.engine.add_request(name, {"prompt_token_ids": prompt}, params)
        return name

    def prompt(self, length: int) -> list[int]:
        """Token ids that no other request of this run starts with."""
        begin = [(self.serial * 7919 + i * 31) % 500 + 3 for i in range(min(length, 64))]
        return begin + [5] * max(0, length - 64)

    def step(self) -> tuple[float, int, int]:
        """One scheduler step: its seconds, its new tokens, and the requests that it finished."""
        begin = time.perf_counter()
        outputs = self.engine.step()
        took = time.perf_counter() - begin
        new = sum(len(output.outputs[0].token_ids) - self.seen.get(output.request_id, 0) for output in outputs)
        for output in outputs:
            self.seen[output.request_id] = len(output.outputs[0].token_ids)
        return took, new, sum(output.finished for output in outputs)

    def counts(self) -> tuple[int, int]:
        """Running and waiting requests."""
        scheduler = self.core.scheduler
        skipped = getattr(scheduler, "skipped_waiting", ()) or ()
        return len(scheduler.running), len(scheduler.waiting) + len(skipped)

    def clear(self, names: list[str]) -> None:
        """Abort these requests and step until the engine is idle."""
        if names:
            self.engine.abort_request(names, internal=False)
        for _ in range(50):
            if not self.engine.has_unfinished_requests():
                break
            self.engine.step()
        # One more step for the batch that async scheduling has in flight.
        with contextlib.suppress(Exception):
            self.engine.step()
        self.seen = {}

    def settle(self, wanted: int, limit_s: float) -> tuple[int, int, int]:
        """Step until `wanted` requests decode or no further one is admitted; returns running, waiting, preempted."""
        end = time.monotonic() + limit_s
        still, last = 0, -1
        while time.monotonic() < end:
            self.step()
            running, waiting = self.counts()
            started = sum(n > 0 for n in self.seen.values())
            if started >= wanted and running + waiting == wanted and not waiting:
                break
            still = still + 1 if (running, started) == last else 0
            last = (running, started)
            if still >= 12:
                break
        running, waiting = self.counts()
        preempted = sum(request.num_preemptions for request in self.core.scheduler.requests.values())
        return running, waiting, preempted

    def decode(self, lengths: list[int], steps: int, limit_s: float) -> dict[str, Any]:
        """The time of one decode step of these requests, after an instant prefill."""
        self.seen = {}
        tokens = 4 * steps + 64
        names = [self.add(length, tokens, True) for length in lengths]
        running, waiting, preempted = self.settle(len(lengths), limit_s)
        for _ in range(5):
            self.step()
        times, out = [], 0
        begin = time.perf_counter()
        end = time.monotonic() + limit_s
        for _ in range(steps):
            took, new, _ = self.step()
            times.append(took)
            out += new
            if time.monotonic() > end:
                break
        total = time.perf_counter() - begin
        self.clear(names)
        return {
            "asked": len(lengths),
            "running": running,
            "waiting": waiting,
            "preempted": preempted,
            "mean_length": round(statistics.mean(lengths)),
            "steps": len(times),
            "step_ms_median": round(statistics.median(times) * 1e3, 3),
            "step_ms_mean": round(total / len(times) * 1e3, 3),
            "step_ms_p90": round(sorted(times)[int(0.9 * (len(times) - 1))] * 1e3, 3),
            "tokens": out,
            "tokens_per_s": round(out / total, 1),
        }

    def prefill(self, length: int, count: int, limit_s: float) -> dict[str, Any]:
        """Prefill rate of real prompts, in tokens a second, one output token each."""
        self.seen = {}
        names = [self.add(length, 1, False) for _ in range(count)]
        done, begin, end = 0, time.perf_counter(), time.monotonic() + limit_s
        while done < count and time.monotonic() < end:
            done += self.step()[2]
        took = time.perf_counter() - begin
        if done < count:
            self.clear(names)
        return {"length": length, "count": done, "s": round(took, 4), "tokens_per_s": round(done * length / took, 1)}

    def whole(self, length: int, tokens: int, count: int, limit_s: float) -> dict[str, Any]:
        """Complete requests, from the first prompt token to the last output token."""
        self.seen = {}
        names = [self.add(length, tokens, False) for _ in range(count)]
        done = out = steps = 0
        begin, end = time.perf_counter(), time.monotonic() + limit_s
        while done < count and time.monotonic() < end:
            _, new, ended = self.step()
            out, done, steps = out + new, done + ended, steps + 1
        took = time.perf_counter() - begin
        if done < count:
            self.clear(names)
        return {
            "length": length,
            "output": tokens,
            "count": count,
            "ended": done,
            "steps": steps,
            "s": round(took, 3),
            "output_tokens_per_s": round(out / took, 2),
        }


def blocks_of(pool: dict[str, Any], cache: dict[str, Any], length: int) -> int:
    """Blocks of one sequence of that length while it decodes: one per state group, two in align mode."""
    total = 0
    for group in pool["groups"]:
        if "Mamba" in group["kind"]:
            total += 1 if cache.get("mamba_cache_mode") in (None, "none") else 2
        else:
            total += math.ceil(length / group["block_size"])
    return total


def spread(low: int, high: int, count: int) -> list[int]:
    """`count` lengths spread evenly from low to high, as in a saturated engine at any moment."""
    return [round(low + (high - low) * (i + 0.5) / count) for i in range(count)]


def most_that_fit(pool: dict[str, Any], cache: dict[str, Any], low: int, high: int, most: int) -> int:
    """The largest count, up to `most`, of `spread` sequences from low to high whose blocks are all in the pool."""
    usable = pool["num_blocks"] - 1
    for count in range(most, 1, -1):
        if sum(blocks_of(pool, cache, length) for length in spread(low, high, count)) <= usable:
            return count
    return 1
