"""Runs of a numeric check: record a reference, and compare an engine with one, or with itself."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybridserve.errors import ConfigError
from hybridserve.verify.client import Answer, Engine
from hybridserve.verify.probes import DIFFERENT_START, TOKENS, Chat, Text, chats, texts
from hybridserve.verify.reference import Entry, Probe, Reference, conversations
from hybridserve.verify.statistics import (
    EPSILON,
    Deviation,
    Kind,
    Noise,
    Position,
    Result,
    Tolerance,
    judge,
    judge_answers,
    moved,
    noise,
    position,
)

# Likeliest tokens of each position that a reference keeps.
KEPT = 5
# Near ties after which the rest of an answer is not compared.
_MOST_FLIPS = 2
# Conditions, in the order in which they run. A forced prefill reads no cache, so it comes last.
CONDITIONS = ("single", "warm", "concurrent", "preempted", "after", "forced")
# Those in which requests are sent together; beside the requests of others all are.
_REGROUPED = ("warm", "concurrent", "preempted")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Load:
    """How prompts are sent together.

    Attributes:
        concurrency: requests at a time in the concurrent conditions.
        pressure: requests of the condition `preempted`; 0 leaves it out.
    """

    concurrency: int = 16
    pressure: int = 32


class Run:
    """One check of one engine. Its own salt keeps it from the cached prefixes of every other run.

    Args:
        block: attention block size of the reference's engine, in tokens.
    """

    def __init__(self, engine: Engine, load: Load, block: int, progress: Progress | None = None) -> None:
        self._engine = engine
        self._block = block
        self._load = load
        self._progress = progress
        self._salt = uuid.uuid4().hex
        self.preemptions = 0.0

    async def build(self, own: Sequence[Chat | Text], context: int) -> list[Entry]:
        """The probes with this engine's answers, each sent alone.

        Args:
            own: the user's prompts, besides the built-in ones.
            context: longest prompt plus output in tokens.
        """
        wanted = [*chats(), *texts(self._block, context), *own]
        entries: list[Entry] = []
        for done, item in enumerate(wanted):
            self._report("reference", done, len(wanted))
            if isinstance(item, Chat):
                prompt = await self._engine.tokenize(messages=list(item.messages), add_generation_prompt=True)
                group = "own" if item.id.startswith("own-") else "short"
                entries.append(await self._answer(Probe(item.id, group, prompt, item.expect)))
            else:
                entries += await self._turns(item)
        return entries

    async def _turns(self, text: Text) -> list[Entry]:
        prompt = (await self._engine.tokenize(prompt=text.text))[: text.tokens]
        if text.start is not None:
            start = (await self._engine.tokenize(prompt=text.start))[:DIFFERENT_START]
            prompt = (*start, *prompt[len(start) :])
        if not text.follow_ups:
            return [await self._answer(Probe(text.id, text.group, prompt))]
        entries: list[Entry] = []
        for turn, more in enumerate(("", *text.follow_ups)):
            if more:
                prompt = (*entries[-1].probe.prompt, *entries[-1].tokens, *await self._engine.tokenize(prompt=more))
            entries.append(await self._answer(Probe(f"{text.id}-turn{turn + 1}", text.group, prompt)))
        return entries

    async def _answer(self, probe: Probe) -> Entry:
        answer = await self._engine.complete(probe.prompt, TOKENS, f"{self._salt}-reference")
        right = probe.expect is not None and probe.expect in await self._engine.detokenize(answer.tokens)
        forced = await self._engine.forced(probe.prompt, answer.tokens)
        top = tuple(_likeliest(at) for at in answer.top)
        return Entry(probe, answer.tokens, top, tuple(round(value, 5) for value in forced), right)

    async def deviations(self, entries: Sequence[Entry], condition: str) -> list[Deviation]:
        """Send every probe under this condition and compare with its entry."""
        salt = f"{self._salt}-{condition}"
        long = [entry for entry in entries if entry.probe.group != "short"]
        if condition == "single":
            return await self._in_order(entries, f"{self._salt}-cold", condition)
        if condition == "warm":  # what `single` has left in the cache
            return await self._together(long, lambda _: f"{self._salt}-cold", condition)
        if condition == "concurrent":
            return await self._together(entries, lambda _: salt, condition)
        if condition == "preempted":
            return await self._under_pressure(entries, salt)
        if condition == "after":
            short = [entry for entry in entries if entry.probe.group == "short"]
            return await self._in_order(short[::2], salt, condition)
        return await self._forced([entry for entry in entries if entry.forced])

    async def _in_order(self, entries: Sequence[Entry], salt: str, condition: str) -> list[Deviation]:
        found = []
        for done, entry in enumerate(entries):
            self._report(condition, done, len(entries))
            found.append(await self._follow(entry, salt))
        return found

    async def _together(self, entries: Sequence[Entry], salt: Callable[[int], str], condition: str) -> list[Deviation]:
        free = asyncio.Semaphore(self._load.concurrency)

        async def follow(group: Sequence[Entry], number: int) -> list[Deviation]:
            async with free:
                return await self._in_order(group, salt(number), condition)

        groups = conversations(entries)
        found = await asyncio.gather(*(follow(group, number) for number, group in enumerate(groups)))
        return [deviation for group in found for deviation in group]

    async def _under_pressure(self, entries: Sequence[Entry], salt: str) -> list[Deviation]:
        """Many prompts that end before a block's end and grow into the next: a small pool has to preempt some."""
        growing = [entry for entry in entries if 0 < self._block - len(entry.probe.prompt) < TOKENS] or list(entries)
        copies = [growing[number % len(growing)] for number in range(self._load.pressure)]
        before = await self._engine.preemptions()
        free = asyncio.Semaphore(max(self._load.concurrency, self._load.pressure))

        async def follow(number: int, entry: Entry) -> Deviation:
            async with free:
                return await self._follow(entry, f"{salt}-{number}")

        self._report("preempted", 0, 1)
        found = await asyncio.gather(*(follow(number, entry) for number, entry in enumerate(copies)))
        self.preemptions = await self._engine.preemptions() - before
        return list(found)

    async def _forced(self, entries: Sequence[Entry]) -> list[Deviation]:
        found = []
        for done, entry in enumerate(entries):
            self._report("forced", done, len(entries))
            values = await self._engine.forced(entry.probe.prompt, entry.tokens)
            gaps = [abs(value - known) for value, known in zip(values, entry.forced, strict=False)]
            if gaps:
                found.append(Deviation(entry.probe.id, [Position(gap, gap) for gap in gaps]))
        return found

    async def _follow(self, entry: Entry, salt: str) -> Deviation:
        """Compare an answer token by token; where a near tie falls the other way, go on after the reference's token."""
        deviation, start = Deviation(entry.probe.id), 0
        while start < len(entry.tokens) and deviation.flips < _MOST_FLIPS:
            prompt = (*entry.probe.prompt, *entry.tokens[:start])
            seen = await self._engine.complete(prompt, len(entry.tokens) - start, salt)
            start = _compare(entry, seen, start, deviation)
        return deviation

    def _report(self, condition: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(condition, done, total)


def _compare(entry: Entry, seen: Answer, start: int, deviation: Deviation) -> int:
    """Add the positions from `start` up to the first other token; returns the position to go on from."""
    for offset, (token, top) in enumerate(zip(seen.tokens, seen.top, strict=True)):
        at = start + offset
        deviation.positions.append(position(entry.top[at], top))
        if token != entry.tokens[at]:
            deviation.flips += 1
            return at + 1
    return len(entry.tokens)


def _likeliest(at: Any) -> tuple[tuple[int, float], ...]:
    ranked = sorted(at.items(), key=lambda pair: -pair[1])[:KEPT]
    return tuple((token, round(value, 5)) for token, value in ranked)


async def record(
    engine: Engine,
    own: Sequence[Chat | Text],
    given: Mapping[str, Any],
    load: Load,
    passes: int = 2,
    progress: Progress | None = None,
) -> Reference:
    """Answers of a trusted engine, and what it deviates from them when the prompts are repeated.

    Args:
        given: `dtype`, and `block_size` where the engine does not report it.
        passes: repeated runs of every condition; 0 for an engine without noise.

    Raises:
        ConfigError: the block size is not known.
        ServiceError: the engine does not answer, or leaves out what was asked for.
    """
    facts = await engine.facts()
    block = given.get("block_size") or facts["block_size"]
    if block is None or facts["max_model_len"] is None:
        raise ConfigError("--block-size", "is not reported by the engine", "give it; hybridserve plan shows it")
    about = {**facts, "dtype": given["dtype"], "block_size": block}
    entries = await Run(engine, load, block, progress).build(own, about["max_model_len"])
    samples: dict[str, list[Deviation]] = {condition: [] for condition in CONDITIONS}
    for _ in range(passes):
        run = Run(engine, load, block, progress)
        for condition in CONDITIONS:
            if condition == "preempted" and not load.pressure:
                continue
            samples[condition] += await run.deviations(entries, condition)
    measured = {name: noise(found) for name, found in samples.items() if found and name not in _REGROUPED}
    together = [deviation for name in _REGROUPED for deviation in samples[name]]
    if together:
        measured |= dict.fromkeys(_REGROUPED, moved(together))
    return Reference(about, tuple(entries), measured)


async def check(
    engine: Engine,
    known: Reference | None,
    own: Sequence[Chat | Text],
    given: Mapping[str, Any],
    load: Load,
    alpha: float,
    passes: int = 1,
    progress: Progress | None = None,
) -> tuple[Reference, list[Result]]:
    """Compare an engine with a reference, or with itself.

    Args:
        known: the reference; None makes one of this engine first.
        own: prompts of the user for the new reference.
        given: `dtype`, and `block_size` where the engine does not report it.

    Returns:
        The reference that was used or made, with the checked engine's release and the kind of tolerance in `about`, and
        the results.

    Raises:
        ConfigError: the reference is of another model.
        ServiceError: the engine does not answer, or leaves out what was asked for.
    """
    if known is None:
        made = await record(engine, own, given, load, passes, progress)
        # Nothing was recorded elsewhere: the engine is compared with its own first answers, and noise that it had then
        # is no excuse.
        results = await compare(engine, replace(made, noise={}), load, alpha, "other", progress)
        return replace(made, about={**made.about, "tolerance": "other"}), results
    facts = await engine.facts()
    if known.about["model"] != facts["model"]:
        fix = "record a reference of this model, or give the served name with --model"
        raise ConfigError("--reference", f"is of {known.about['model']}, the engine serves {facts['model']}", fix)
    same = facts["vllm"] is not None and facts["vllm"] == known.about["vllm"]
    grouped: Kind = "regrouped" if facts["busy"] or known.about.get("busy") else "same"
    kind = grouped if same else "other"
    results = await compare(engine, known, load, alpha, kind, progress)
    return replace(known, about={**known.about, "vllm": facts["vllm"], "tolerance": kind}), results


async def compare(
    engine: Engine,
    reference: Reference,
    load: Load,
    alpha: float,
    kind: Kind,
    progress: Progress | None = None,
) -> list[Result]:
    """Compare an engine with a reference under every condition; `alpha` is the run's false-alarm rate."""
    run, entries = Run(engine, load, reference.about["block_size"], progress), reference.entries
    tests = 2 * len(CONDITIONS) + 1
    tolerance = Tolerance(alpha / tests, EPSILON[reference.about["dtype"]], kind)
    results: list[Result] = []
    flipped: set[str] = set()
    for condition in CONDITIONS:
        if condition == "preempted" and not load.pressure:
            results.append(Result(condition, "SKIP", note="left out"))
            continue
        found = await run.deviations(entries, condition)
        if not found:
            results.append(Result(condition, "SKIP", note="no probe"))
            continue
        if condition == "single":
            flipped = {deviation.probe for deviation in found if deviation.flips}
        limits = replace(tolerance, kind="regrouped") if kind == "same" and condition in _REGROUPED else tolerance
        measured = reference.noise.get("warm" if limits.kind == "regrouped" else condition, Noise())
        result = judge(condition, found, measured, limits)
        if condition == "preempted":
            count = f"{run.preemptions:.0f} preemptions"
            result = replace(result, note=f"{count}{'; ' if result.note else ''}{result.note}")
            if result.verdict == "PASS" and not run.preemptions:  # the pool was too large: nothing was shown
                result = replace(result, verdict="SKIP")
        results.append(result)
    return [*results, await _answers(engine, entries, flipped, tolerance.alpha)]


async def _answers(engine: Engine, entries: Sequence[Entry], flipped: set[str], alpha: float) -> Result:
    """Exact answers; where no token differed, the answer is the reference's."""
    known = [entry for entry in entries if entry.right]
    lost = []
    for entry in known:
        if entry.probe.id not in flipped:
            continue
        answer = await engine.complete(entry.probe.prompt, len(entry.tokens), f"answers-{uuid.uuid4().hex}")
        if str(entry.probe.expect) not in await engine.detokenize(answer.tokens):
            lost.append(entry.probe.id)
    return judge_answers(len(known), lost, alpha)
