"""What differs between vLLM releases: `engines.yaml`, typed."""

from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict

from hybridserve import yamlio
from hybridserve.errors import CatalogError

Platform = Literal["cuda", "cpu"]
CacheMode = Literal["none", "align", "all"]
Mixer = Literal["mamba2", "mamba1", "gated_delta_net", "short_conv"]

_FILE = Path(__file__).with_name("engines.yaml")
# Fields of which an entry states what it adds to the release that it builds on.
ADDED_UP = ("ignored_environment", "removed_arguments", "removed_speculation")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class KvCacheDtype(_Frozen):
    """A type of the attention cache."""

    bytes: int
    scale_bytes: int = 0
    """Bytes of the inline scale per head, once for keys and once for values."""
    platforms: tuple[Platform, ...]


class ServerDefaults(_Frozen):
    """The API server's defaults for unset flags, from this much device memory."""

    from_gib: int
    max_num_seqs: int
    max_num_batched_tokens: int


class Pins(_Frozen):
    """Versions that the engine release requires."""

    python: str
    torch: str
    transformers: str


class RaySupport(_Frozen):
    """What of a Ray release works with the engine release, by the imports of `ray.llm`."""

    version: str
    works: bool
    """`ray.serve.llm` imports, so a deployment starts."""
    broken: tuple[str, ...]
    """Parts that do not work."""


class KnownFault(_Frozen):
    """A known fault of the release that limits what can be deployed."""

    id: str
    platforms: tuple[Platform, ...]
    modes: tuple[CacheMode, ...]
    mixers: tuple[Mixer, ...]
    what: str


class CpuSpeculation(_Frozen):
    """What speculation does on a hybrid on CPU, with prefix caching and without, found by `make test-speculation`."""

    cached: Literal["equal", "changes tokens", "stops"]
    uncached: Literal["equal", "changes tokens", "stops"]
    found: str


class EngineTable(_Frozen):
    """The constants of one vLLM release. See the comments in `engines.yaml`."""

    version: str
    source: str
    read: date
    verified: bool
    """The differential suite has compared the planner with this release's allocator."""
    mamba_cache_modes: tuple[CacheMode, ...]
    mamba_cache_mode_ignored: bool
    mode_all_architectures: frozenset[str]
    replayssm_architectures: frozenset[str]
    replayssm_on_cuda: bool
    kda_state_dtypes: tuple[str, ...]
    float_cache_must_match: bool
    window_has_smallest_block: bool
    speculation_not_in_page: frozenset[str]
    state_blocks_none: int
    state_blocks_align: dict[Mixer, int]
    flashinfer_checkpoint_tokens: int | None
    state_blocks_running: int
    default_block_size: dict[Platform, int]
    kernel_block_size: dict[Platform, int]
    partial_hits_tested_on: frozenset[Platform]
    copies_whole_blocks: bool
    default_mamba_chunk_size: int
    cpu_resets_block_size: bool
    prefix_match_unit_checked_for_one_group: bool
    yarn_scales_context: bool
    kv_cache_dtypes: dict[str, KvCacheDtype]
    cpu_head_sizes: frozenset[int]
    default_gpu_memory_utilization: float
    default_replayssm_buffer_len: int
    server_defaults: tuple[ServerDefaults, ...]
    small_default_capabilities: frozenset[str]
    server_defaults_cpu: ServerDefaults
    max_cudagraph_capture_size: dict[Literal["default", "sm100"], int]
    capacity_log_device: Literal["GPU", "device"]
    """First word of the capacity log line: GPU, or the name of the device."""
    hybrid_kv_connectors: frozenset[str]
    lookahead_block_hashes: bool
    cpu_speculation: CpuSpeculation | None
    max_num_active_seqs: bool
    ignored_arguments: dict[str, str]
    ignored_environment: dict[str, str]
    removed_arguments: dict[str, str]
    removed_speculation: dict[str, str]
    pins: Pins
    ray: tuple[RaySupport, ...]
    known_faults: tuple[KnownFault, ...]

    def resets_block_size(self, platform: Platform) -> bool:
        """Whether a block size that is not set is the default again after start-up."""
        return platform == "cpu" and self.cpu_resets_block_size


@cache
def engine_tables() -> tuple[EngineTable, ...]:
    """All tables, oldest release first."""
    content = yamlio.read(_FILE, kind=CatalogError)
    entries: dict[str, dict[str, Any]] = {}
    for entry in content["engines"]:
        # A release that builds on another one states what differs; what it is proved by is never inherited.
        base = entries.get(entry.pop("based_on", ""), {})
        sums = {name: {**base.get(name, {}), **entry.get(name, {})} for name in ADDED_UP}
        unproved = {"verified": False, "cpu_speculation": None}
        entries[entry["version"]] = {**base, **unproved, **entry, **sums}
    tables = (EngineTable.model_validate(entry) for entry in entries.values())
    return tuple(sorted(tables, key=lambda table: release(table.version)))


@cache
def engine_table(version: str) -> tuple[EngineTable, str | None]:
    """The table for a vLLM version, and a warning if it is the table of another release.

    A version without a table uses that of the latest earlier release, or else of the oldest.

    Raises:
        CatalogError: `version` is not a version number.
    """
    wanted = release(version)
    tables = engine_tables()
    older = [table for table in tables if release(table.version) <= wanted]
    table = older[-1] if older else tables[0]
    if table.version == version:
        return table, None
    known = ", ".join(entry.version for entry in tables)
    return table, (
        f"vLLM {version} is not in the engine table ({known}): planned with the constants of {table.version}, "
        "so the numbers are not verified"
    )


def release(version: str) -> Version:
    """The release that a vLLM version belongs to, without rc, dev and local parts, to compare releases.

    Raises:
        CatalogError: `version` is not a version number.
    """
    try:
        return Version(Version(version).base_version)
    except InvalidVersion:
        known = ", ".join(table.version for table in engine_tables())
        raise CatalogError("engine.version", f"{version!r} is not a vLLM version", f"one such as {known}") from None
