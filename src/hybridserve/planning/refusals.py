"""A plan that cannot start: which of the given settings is to blame, and what would start instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from hybridserve.catalog.accelerators import Accelerator, accelerators
from hybridserve.catalog.engines import engine_table
from hybridserve.errors import PlanRefused
from hybridserve.planning.cache.dtypes import resolve_dtypes
from hybridserve.planning.cache.types import AUTO_LEN
from hybridserve.planning.deployment import Deployment, DeploymentPlan, plan_low_end, with_cache
from hybridserve.planning.models.architecture import UNLIMITED
from hybridserve.units import GIB, MIB

PARALLEL_SIZES = (2, 4, 8)
MAX_GPUS_NAMED = 3
# More than the memory of any device: a search for the bytes of a pool ends here.
MOST_BYTES = 1 << 42

Fill = Callable[[Deployment, int], Deployment]
"""Sets max_num_batched_tokens for a number of sequences, where the user has not."""


def nothing_fits(given: Deployment, plan: DeploymentPlan, fill: Fill) -> PlanRefused:
    """The refusal of a plan.

    `where` is the given setting that the refusal names, else another one that alone prevents the start, if there is
    one. The fix has a value of it that starts, the same for other settings, and further changes that would start.
    """
    # What is proposed is planned again, with the type that a plan chooses.
    asked = with_cache(given, mamba_ssm_cache_dtype=plan.deployment.cache.mamba_ssm_cache_dtype)
    refusal = plan.low_refusal or plan.refusal
    assert refusal is not None
    where, fixes = refusal.where, []
    blamed = _blamed(asked, plan, fill, where)
    if where == "engine.max_model_len" and asked.cache.max_model_len is not None:
        fixes += [refusal.fix, *blamed.values()]
    elif blamed:
        where, fixes = next(iter(blamed)), [*blamed.values()]
    elif asked.cache.max_model_len is not None or asked.cache.max_num_seqs is not None:
        fixes.append(refusal.fix)
    what = refusal.what
    if where == "accelerator.name" and asked.total_bytes is not None:
        # The memory that is set is too little, not the device: another device would be planned with the same memory.
        where, what = "accelerator.memory_gib", f"{asked.total_bytes / GIB:g} GiB are too little. {what}"
        usable = asked.accelerator.memory_bytes
        if usable and _starts(replace(asked, total_bytes=None)):
            fixes.append(f"{usable / GIB:.2f}, the usable memory of {asked.accelerator.name}, or leave it out")
    fixes += _state_dtype(given, plan)
    if asked.accelerator.platform == "cuda":
        if asked.cache.kv_cache_dtype == "auto" and _starts(with_cache(asked, kv_cache_dtype="fp8")):
            fixes.append("--set engine.kv_cache_dtype=fp8")
        fixes += _devices(asked) or ([] if fixes else _more_and_larger(asked))
    return PlanRefused(where, what, "; or ".join(fixes) or refusal.fix)


def most_sequences(deployment: Deployment, limit: int) -> int:
    """The largest max_num_seqs up to a limit with which an engine starts at the low end of the estimate.

    More sequences need more memory beside the pool, so it is less than the blocks that fewer sequences leave.
    """
    return _largest(lambda count: _fits(with_cache(deployment, max_num_seqs=count)), limit + 1)


def _blamed(asked: Deployment, plan: DeploymentPlan, fill: Fill, named: str) -> dict[str, str]:
    """Given settings that prevent the start with the recommended rest, each with a value that starts.

    The one that the refusal names comes first. A share of memory or a step's tokens with which the engine's default
    would not start either are left out, unless nothing else is to blame.
    """
    length = asked.cache.max_model_len or AUTO_LEN
    if asked.arch.max_position_embeddings == UNLIMITED:
        length = plan.deployment.cache.max_model_len or AUTO_LEN
    base = with_cache(plan.deployment, max_model_len=length)
    fixes = dict(_values_that_start(asked, base, fill))
    defaults = {
        "engine.gpu_memory_utilization": replace(base, gpu_memory_utilization=None),
        "engine.max_num_batched_tokens": replace(base, max_num_batched_tokens=None),
    }
    blamed = [where for where in fixes if where == named or where not in defaults or _fits(defaults[where])]
    order = sorted(blamed or [*fixes][:1], key=lambda where: where != named)
    return {where: fixes[where] for where in order}


def _values_that_start(asked: Deployment, base: Deployment, fill: Fill) -> Iterator[tuple[str, str]]:
    """Given settings of which another value starts, each with the one that is nearest."""
    given = asked.gpu_memory_utilization
    if given is not None and asked.kv_cache_memory_bytes is None:
        for percent in sorted(range(1, 100), key=lambda value: abs(value - 100 * given)):
            if _fits(replace(base, gpu_memory_utilization=percent / 100)):
                side = "least" if percent / 100 > given else "most"
                yield "engine.gpu_memory_utilization", f"gpu_memory_utilization of at {side} {percent / 100}"
                break
    if (pool := asked.kv_cache_memory_bytes) is not None:

        def in_mib(size: int) -> bool:
            return _fits(replace(base, kv_cache_memory_bytes=size * MIB))

        if size := _smallest(in_mib, pool // MIB, MOST_BYTES // MIB):
            yield "engine.kv_cache_memory_bytes", f"kv_cache_memory_bytes of at least {size * MIB} ({size:,} MiB)"
        elif size := _below(in_mib, pool // MIB):
            yield "engine.kv_cache_memory_bytes", f"kv_cache_memory_bytes of at most {size * MIB} ({size:,} MiB)"
    if (tokens := asked.max_num_batched_tokens) is not None and (
        most := _largest(lambda count: _fits(replace(base, max_num_batched_tokens=count)), tokens)
    ):
        yield "engine.max_num_batched_tokens", f"max_num_batched_tokens of at most {most}"
    if (seqs := asked.cache.max_num_seqs) is not None and (
        most := _largest(lambda count: _fits(fill(with_cache(base, max_num_seqs=count), count)), seqs)
    ):
        yield "engine.max_num_seqs", f"max_num_seqs of at most {most}"


def _largest(starts: Callable[[int], bool], below: int) -> int:
    """The largest number below a limit with which it starts, where every smaller one does, too; 0 if none does."""
    return _between(starts, 1, below) if below > 1 and starts(1) else 0


def _below(starts: Callable[[int], bool], limit: int) -> int:
    """The largest number below a limit with which it starts, where too small ones do not; 0 if halving finds none."""
    too_large, fits = limit, limit // 2
    while fits and not starts(fits):
        too_large, fits = fits, fits // 2
    return _between(starts, fits, too_large) if fits else 0


def _smallest(starts: Callable[[int], bool], above: int, limit: int) -> int:
    """The smallest number above another with which it starts; 0 if doubling up to a limit finds none."""
    too_small, fits = above, max(1, 2 * above)
    while not starts(fits):
        if fits > limit:
            return 0
        too_small, fits = fits, 2 * fits
    return _between(starts, fits, too_small)


def _between(starts: Callable[[int], bool], fits: int, other: int) -> int:
    """The number that starts and is the last one before `other`, which does not start and may be above or below."""
    while abs(fits - other) > 1:
        middle = (fits + other) // 2
        fits, other = (middle, other) if starts(middle) else (fits, middle)
    return fits


def _state_dtype(given: Deployment, plan: DeploymentPlan) -> list[str]:
    """The engine's own type of the SSM state, where the plan chose a larger one with which it does not start."""
    if not given.arch.hybrid:
        return []
    own = resolve_dtypes(given.arch, given.cache, engine_table(given.cache.engine)[0]).ssm
    utilization = plan.deployment.gpu_memory_utilization
    chosen = plan.deployment.cache.mamba_ssm_cache_dtype
    if own == chosen or not _starts(replace(given, gpu_memory_utilization=utilization)):
        return []
    return [f"--set engine.mamba_ssm_cache_dtype={own}, which `hybridserve check` refuses in production"]


def _devices(asked: Deployment) -> list[str]:
    """Options for more devices of this kind, and for one larger device."""
    fixes = [_devices_set(size) for size in _sizes(asked) if _starts(with_cache(asked, tensor_parallel_size=size))][:1]
    return fixes + _larger(asked)


def _more_and_larger(asked: Deployment) -> list[str]:
    """Options for the fewest larger devices."""
    for size in _sizes(asked):
        if larger := _larger(with_cache(asked, tensor_parallel_size=size)):
            return [f"{larger[0]} {_devices_set(size)}"]
    return []


def _devices_set(size: int) -> str:
    """How every command sets the number of devices: only `plan` has `--tp`."""
    return f"--set engine.tensor_parallel_size={size}"


def _sizes(asked: Deployment) -> list[int]:
    return [size for size in PARALLEL_SIZES if size > asked.cache.tensor_parallel_size]


def _larger(asked: Deployment) -> list[str]:
    """An option for devices that start; none where the memory is set, which would be that of another device, too."""
    if asked.total_bytes is not None:
        return []
    others = (entry for entry in accelerators() if _usable(entry) and entry is not asked.accelerator)
    larger = [entry.id for entry in others if _starts(replace(asked, accelerator=entry))]
    return [f"--gpu {' or '.join(larger[:MAX_GPUS_NAMED])}"] if larger else []


def _usable(device: Accelerator) -> bool:
    return device.platform == "cuda" and device.has_kernels


def _starts(deployment: Deployment) -> bool:
    """Whether it would start with one sequence and the longest context that fits."""
    seqs, length = deployment.cache.max_num_seqs or 1, deployment.cache.max_model_len or AUTO_LEN
    return _fits(with_cache(deployment, max_num_seqs=seqs, max_model_len=length))


def _fits(deployment: Deployment) -> bool:
    """Whether it starts at the low end of the memory band."""
    try:
        return not isinstance(plan_low_end(deployment), PlanRefused)
    except PlanRefused:
        return False
