"""The report on a release: what was found, what changes for the checks, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from engine_release.cache_server import CacheTest
from engine_release.differential import Answers, summary
from engine_release.entry import changes
from engine_release.source import BrokenImport
from hybridserve.catalog.engines import EngineTable

SHOWN = 40


@dataclass(frozen=True)
class Findings:
    """Everything that the steps found. Pairs are (release before, this release)."""

    measured: EngineTable
    base: EngineTable
    present: EngineTable | None
    answers: Answers
    differing: tuple[str, ...]
    cpu_build: bool
    cache: CacheTest | None
    hooks: tuple[BrokenImport, ...]
    ray: tuple[tuple[BrokenImport, bool], ...]
    flags: tuple[set[str], set[str]]
    environment: tuple[set[str], set[str]]
    metrics: tuple[set[str], set[str]]


@dataclass(frozen=True)
class Verdict:
    """Whether the release can be used, and what to leave off."""

    word: Literal["use", "hold"]
    because: tuple[str, ...]
    off: tuple[str, ...]

    @property
    def line(self) -> str:
        off = [f"off: {', '.join(self.off)}"] if self.off else []
        return "; ".join([f"verdict: {self.word}", *self.because, *off])


def verdict(found: Findings) -> Verdict:
    """Hold a release that the planner does not match or that cannot be served; name what to leave off otherwise."""
    table = found.measured
    because, off = [], []
    if found.differing:
        because.append(f"planner and allocator differ on {len(found.differing)} fields")
    if found.hooks:
        because.append(f"our own imports fail: {', '.join(map(str, found.hooks))}")
    for ray in table.ray:
        if not ray.works:
            because.append(f"Ray Serve LLM {ray.version} does not import it; a single server works")
        else:
            off += [f"Ray's {name.removeprefix('ray.llm._internal.')}" for name in ray.broken]
    off += [f"{' and '.join(fault.platforms)}: {fault.what}" for fault in table.known_faults]
    if not table.lookahead_block_hashes:
        off.append("speculative decoding with prefix caching on a hybrid")
    return Verdict("hold" if because else "use", tuple(because), tuple(off))


def report(found: Findings) -> str:
    """The report in Markdown. Its date is that of the entry, so that a second run gives the same text."""
    table, decision = found.measured, verdict(found)
    answers, build = found.answers, "its CPU build" if found.cpu_build else "the Python of its CUDA wheel on a CPU"
    lines = [
        f"# vLLM {table.version}",
        "",
        f"Written by `make engine VERSION={table.version}`, with {build}. Compared with vLLM {found.base.version}. "
        f"Read on {table.read}.",
        "",
        f"**Verdict: {decision.word}.** {'; '.join(decision.because) or 'The planner matches it, and Ray serves it'}.",
        *([f"Leave off: {'; '.join(decision.off)}."] if decision.off else []),
        "",
        "## Planner and allocator",
        "",
        f"{len(answers.pairs)} cases: {answers.curated} chosen, {answers.cards} model cards, {answers.random} drawn; "
        f"{answers.refused} are refused by vLLM. Differences: {len(found.differing)}"
        + (f" ({summary(list(found.differing))})." if found.differing else "."),
        *(["", "```text", *found.differing[:SHOWN], "```"] if found.differing else []),
        "",
        "## Engine table",
        "",
        *_table_changes(f"What differs from vLLM {found.base.version}:", changes(found.base, table)),
        *_present(found),
        "",
        "## Imports",
        "",
        f"Our own code: {_listed(map(str, found.hooks)) or 'all found'}.",
        f"Ray {table.ray[0].version}: {_ray(found.ray)}.",
        "",
        "## Prefix cache of a server",
        "",
        *_cache(found.cache, found.cpu_build),
        "",
        "## Flags, environment and metrics",
        "",
        *_difference("flags", found.flags),
        *_difference("environment variables", found.environment),
        *_difference("metrics", found.metrics),
    ]
    return "\n".join(lines) + "\n"


def _table_changes(title: str, differing: dict[str, tuple[Any, Any]]) -> list[str]:
    if not differing:
        return [f"{title} nothing."]
    pairs = {name: _differing_parts(old, new) for name, (old, new) in sorted(differing.items())}
    rows = [f"| `{name}` | {_short(old)} | {_short(new)} |" for name, (old, new) in pairs.items()]
    return [title, "", "| field | before | now |", "|---|---|---|", *rows]


def _present(found: Findings) -> list[str]:
    if found.present is None:
        return ["", "The entry was added to the catalog."]
    wrong = changes(found.present, found.measured)
    return ["", *_table_changes("What the catalog's entry has otherwise than measured:", wrong)]


def _differing_parts(old: Any, new: Any) -> tuple[Any, Any]:
    """Of two dictionaries, the entries that differ; anything else as it is."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old, new
    same = {key for key in old if key in new and old[key] == new[key]}
    return tuple({key: value for key, value in each.items() if key not in same} for each in (old, new))  # type: ignore[return-value]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_short(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(sorted(_short(inner) for inner in value)) or "none"
    return str(value).replace("|", "\\|")


def _ray(broken: tuple[tuple[BrokenImport, bool], ...]) -> str:
    items = (f"{item} ({'stops a deployment' if item.loads and served else 'one part'})" for item, served in broken)
    return _listed(items) or "all found"


def _cache(cache: CacheTest | None, cpu_build: bool) -> list[str]:
    if cache is None:
        return ["Not tested." if cpu_build else "Not tested: there is no CPU build."]
    rows = [f"| {length:,} | {', '.join(map(str, hits)) or 'none'} |" for length, hits in cache.hits.items()]
    died = [] if cache.alive else ["", "The engine died on the last prompt."]
    return ["| prompt tokens | cached tokens of each sending |", "|---|---|", *rows, *died]


def _difference(what: str, pair: tuple[set[str], set[str]]) -> list[str]:
    before, now = pair
    return [
        f"- {what} added: {_listed(f'`{name}`' for name in sorted(now - before)) or 'none'}",
        f"- {what} removed: {_listed(f'`{name}`' for name in sorted(before - now)) or 'none'}",
    ]


def _listed(items: Any) -> str:
    return ", ".join(items)
