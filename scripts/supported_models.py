"""Tables of docs/reference/supported-models.md: every model, precision and device, and what proves its plan.

The proofs are read from the tests: public start-up logs (tests/support/startup_logs.py) and the cases that are compared
with vLLM's allocator (tests/engine/planner_cases.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from hybridserve.catalog.accelerators import accelerators
from hybridserve.catalog.models import model_ids, resolve_model
from hybridserve.planning.extra_args import ONLINE
from hybridserve.planning.models import OUT_OF_SCOPE, READERS, read_architecture
from hybridserve.planning.models.quantization import UNKNOWN_SIZE
from hybridserve.units import GIB

TESTS = Path(__file__).resolve().parent.parent / "tests"
for folder in (TESTS, TESTS / "engine"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from planner_cases import curated  # noqa: E402

from support.startup_logs import LOGS  # noqa: E402

ALLOCATOR = "vLLM's allocator"
UNVERIFIED = "unverified"
Row = tuple[str, ...]


@cache
def logged() -> dict[str, list[str]]:
    """Start-up logs by catalog id and by vLLM class."""
    found: dict[str, list[str]] = {}
    for log in LOGS:
        names = [log.model] if isinstance(log.model, str) else []
        config = resolve_model(log.model).config if isinstance(log.model, str) else log.model
        for name in [*names, config["architectures"][0]]:
            found.setdefault(name, []).append(log.id)
    return found


@cache
def compared() -> frozenset[str]:
    """vLLM classes with cases that are compared with the allocator."""
    return frozenset(case["config"]["architectures"][0] for case in curated())


def proof(name: str, class_name: str) -> str:
    """What proves the plan of a model or class."""
    proofs = [f"start-up log {', '.join(logged()[name])}"] if name in logged() else []
    proofs += [ALLOCATOR] if class_name in compared() else []
    return ", ".join(proofs) or UNVERIFIED


def models() -> Iterable[Row]:
    """Cards of the catalog."""
    for name in model_ids():
        model = resolve_model(name)
        assert model.card is not None
        class_name = str(model.config["architectures"][0])
        architecture = read_architecture(model.config)
        weights = model.card.weights
        precision = architecture.precision.name if architecture.precision.name != "none" else weights.quantization
        size = f"{weights.bytes / 1e9:.1f} GB" if weights.bytes else "counted"
        if weights.bytes is None and precision != "none":
            size = "not known"
        elif "bytes" in weights.uncertain:
            size += ", not confirmed"
        yield f"`{name}`", f"`{class_name}`", precision, size, proof(name, class_name)


# Names of the families by reader, as the README has them.
FAMILIES = {
    "nemotron_h": "NemotronH",
    "granite_hybrid": "Granite 4 hybrid",
    "falcon_h1": "Falcon-H1",
    "gated_delta_net": "Qwen3-Next, Qwen3.5 to 3.8 (gated delta net)",
    "jamba": "Jamba",
    "lfm2": "LFM2",
    "olmo_hybrid": "OLMo-Hybrid",
    "zamba2": "Zamba2",
    "kimi_linear": "Kimi-Linear, Kimi K3",
    "bailing_hybrid": "Ling",
    "mamba": "Mamba, Mamba-2, Falcon-Mamba",
    "sliding_window": "Gemma 2 and 3, gpt-oss (sliding window)",
    "gemma4": "Gemma 4 (sliding window)",
    "transformer": "Llama, Mistral, Qwen2, Qwen3 (transformer, for comparison)",
}


def families() -> Iterable[Row]:
    """Families that can be planned, with the ids of their cards; variants of a card are in brackets behind it."""
    readers = {name: READERS[resolve_model(name).config["architectures"][0]] for name in model_ids()}
    for reader in dict.fromkeys(READERS.values()):
        ids = [name for name in readers if readers[name] == reader]
        bases = [name for name in ids if not any(name.startswith(f"{other}-") for other in ids)]
        shown = []
        for base in bases:
            variants = [name.removeprefix(f"{base}-") for name in ids if name.startswith(f"{base}-")]
            shown.append(f"`{base}`" + (f" ({', '.join(variants)})" if variants else ""))
        yield FAMILIES[reader], ", ".join(shown) or "none"


def classes() -> Iterable[Row]:
    """Classes of vLLM that a config.json may name."""
    for name in READERS:
        yield f"`{name}`", proof(name, name)
    for name, reason in OUT_OF_SCOPE.items():
        yield f"`{name}`", f"refused: {reason}"


def precisions() -> Iterable[Row]:
    """How checkpoints may be stored. The sizes are compared in tests/unit/planning/test_quantization.py."""
    yield (
        "bfloat16, float16",
        "counted",
        "start-up logs A05, A08, A10, A20: within 1 %; MiniCPM-V 4.6's file: to the byte",
    )
    yield "ModelOpt NVFP4", "listed layers", "published size of the 30B checkpoint: within 0.1 %; log A03: within 1 %"
    yield "ModelOpt FP8", "listed layers", "without a list, log A01: 6 % more than the usual recipe, inside the band"
    yield "ModelOpt mixed precision", "listed layers", "published size of Nemotron 3.5 Lightning: within 3 %"
    for name in (
        "AWQ, GPTQ, AutoRound (inc)",
        "compressed-tensors",
        "FP8 (fp8, fbgemm_fp8), also by block",
        "ModelOpt MXFP8",
        "MXFP4",
        "INT8 experts (experts_int8)",
    ):
        yield name, "the config's bits and groups", f"the format's arithmetic; loading is {UNVERIFIED}"
    methods = ", ".join(ONLINE)
    yield f"converted while loading ({methods})", "the method's bytes of a weight", f"loading is {UNVERIFIED}"
    yield "FP8 attention cache that the checkpoint declares", "ModelOpt's scheme", "start-up log A28, vLLM's allocator"
    yield ", ".join(UNKNOWN_SIZE), "`model.weight_bytes`, index or shards", "refused without a size"


def devices() -> Iterable[Row]:
    """Accelerators: the blocks of a known pool depend on the model only."""
    fitted = {log.device.accelerator: log.id for log in LOGS if log.device}
    measured = {path.stem.removeprefix("pools-") for path in TESTS.parent.glob("benchmarks/gpu/results/pools-*.yaml")}
    for device in accelerators():
        memory = f"{device.memory_bytes / GIB:.2f} GiB" if device.memory_bytes else "by machine or setting"
        if not device.has_kernels and device.id != "generic":
            status = "refused: vLLM's wheels have no kernels for it"
        elif device.id == "cpu":
            status = "engine starts in `make test`"
        elif device.id in measured:
            status = "measured: the estimate of the pool is fitted to [starts on this card](../evidence/gpu.md)"
        elif device.id in fitted:
            status = f"pool inside the band of [start-up log {fitted[device.id]}](#start-up-logs)"
        else:
            status = f"pool {UNVERIFIED}"
        yield f"`{device.id}`", device.name, memory, device.compute_capability or "-", status


def logs() -> Iterable[Row]:
    """The start-up logs."""
    for log in LOGS:
        name = f"`{log.model}`" if isinstance(log.model, str) else f"a config of `{log.model['architectures'][0]}`"
        yield log.id, name, log.engine, log.source, log.weights_unknown or "-"
