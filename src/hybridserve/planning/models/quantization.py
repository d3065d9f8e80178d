"""How a checkpoint stores its weights: `quantization_config`, or ModelOpt's `hf_quant_config.json`.

A `Precision` gives the bytes of one weight of each kind of linear layer, and the layers that differ. Source: vLLM 0.29,
model_executor/layers/quantization; formats of ModelOpt, compressed-tensors, AutoAWQ, GPTQ, FP8 and MXFP4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from typing import Any, Literal, NoReturn

from hybridserve.errors import CatalogError
from hybridserve.fast_dataclass import dataclass

Component = Literal[
    "qkv", "attention_out", "state_in", "state_gates", "state_out", "mlp", "experts", "shared", "latent"
]
Compute = Literal["none", "fp8", "nvfp4"]

# Names of the linear layers below `layers.N.`; the engine fuses q, k, v (gate, up) and needs one scheme for them.
MODULES: dict[Component, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.qkv_proj", "mixer.q_proj"),
    "attention_out": ("self_attn.o_proj", "self_attn.out_proj", "mixer.o_proj"),
    "state_in": (
        "mixer.in_proj",
        "mamba.in_proj",
        "linear_attn.in_proj_qkv",
        "linear_attn.in_proj_qkvz",
        "conv.in_proj",
    ),
    "state_gates": ("linear_attn.in_proj_a", "linear_attn.in_proj_ba"),
    "state_out": ("mixer.out_proj", "mamba.out_proj", "linear_attn.out_proj", "conv.out_proj"),
    "mlp": ("mlp.up_proj", "mixer.up_proj", "feed_forward.up_proj", "feed_forward.w1", "shared_mlp.input_linear"),
    "experts": (
        "mixer.experts.up_proj",
        "mlp.experts.up_proj",
        "feed_forward.experts.up_proj",
        "feed_forward.experts.w1",
        "block_sparse_moe.input_linear",
    ),
    "shared": ("mixer.shared_experts.up_proj", "mlp.shared_expert.up_proj", "shared_mlp.input_linear"),
    "latent": ("mixer.fc1_latent_proj",),
}
ALL: tuple[Component, ...] = tuple(MODULES)

FP8, NVFP4 = 1.0, 0.5 + 1 / 16
# ModelOpt's algorithms: bytes of one weight with its scales, and the matrix units that they use.
ALGORITHMS: dict[str, tuple[float, Compute]] = {
    "FP8": (FP8, "fp8"),
    "FP8_PER_CHANNEL_PER_TOKEN": (FP8, "fp8"),
    "FP8_PB_WO": (FP8 + 4 / 128**2, "fp8"),
    "MXFP8": (FP8 + 1 / 32, "fp8"),
    "NVFP4": (NVFP4, "nvfp4"),
    "W4A16_NVFP4": (NVFP4, "none"),
}
# Methods of vLLM 0.29 whose bytes are not stated by their config.
UNKNOWN_SIZE = ("fp_quant", "humming", "quark", "moe_wna16", "torchao", "deepseek_v4_fp8", "online")
KNOWN = (
    "modelopt",
    "modelopt_fp4",
    "modelopt_mxfp8",
    "modelopt_mixed",
    "compressed-tensors",
    "awq",
    "awq_marlin",
    "auto_awq",
    "gptq",
    "gptq_marlin",
    "auto_gptq",
    "inc",
    "fp8",
    "fbgemm_fp8",
    "mxfp4",
    "gpt_oss_mxfp4",
    "experts_int8",
)
# Names of `--quantization` that load one kind of checkpoint, the usual one first; `humming` is a choice of kernels.
MODELOPT = ("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed")
SAME_CHECKPOINT = (
    MODELOPT,
    ("gptq", "gptq_marlin", "auto_gptq", "moe_wna16", "humming"),
    ("awq", "awq_marlin", "auto_awq", "moe_wna16", "humming"),
    ("mxfp4", "gpt_oss_mxfp4", "humming"),
)
_EXPERT = re.compile(r"experts\.\d+")
WHERE = "config.json: quantization_config"


@dataclass(frozen=True, slots=True)
class Precision:
    """How the weights of a checkpoint are stored.

    Attributes:
        name: for messages and the calibration file.
        compute: the matrix units that most of its layers use; none is the model's own type.
        parts: bytes of one weight by kind of layer; a kind that is not named has the model's type.
        head: bytes of one weight of the language model head; None is the model's type.
        exceptions: (layer, kind, bytes or None for the model's type) of layers that differ.
        known: bytes of a weight are stated by the checkpoint; False for a vendor's usual recipe or an unknown method.
        sized: the bytes can be derived at all.
        kv_cache_dtype: meaning of `--kv-cache-dtype auto`; None is the model's type.
        mtp_plain: the draft module keeps the model's type.
        converted: the engine quantizes an unquantized checkpoint while it loads.
    """

    name: str = "none"
    compute: Compute = "none"
    parts: tuple[tuple[Component, float], ...] = ()
    head: float | None = None
    exceptions: tuple[tuple[int, Component, float | None], ...] = ()
    known: bool = True
    sized: bool = True
    kv_cache_dtype: str | None = None
    mtp_plain: bool = True
    converted: bool = False


UNQUANTIZED = Precision()


def vendor_recipe(name: str, hybrid: bool) -> Precision:
    """NVIDIA's usual recipe for a checkpoint whose config was not read: a hybrid's attention keeps its type."""
    if name == "none":
        return UNQUANTIZED
    size, compute = (FP8, "fp8") if name == "fp8" else (NVFP4, "nvfp4")
    kept = ("qkv", "attention_out") if hybrid else ()
    parts = tuple((part, size) for part in ALL if part not in kept)
    return Precision(name, "fp8" if compute == "fp8" else "nvfp4", parts, known=False)


def online(method: str, size: float) -> Precision:
    """Every linear layer is converted to `size` bytes a weight while the model loads; tables keep their type."""
    compute: Compute = "nvfp4" if size < FP8 else "none" if method.startswith("int8") else "fp8"
    return Precision(method, compute, tuple((part, size) for part in ALL), mtp_plain=False, converted=True)


def read_precision(config: Mapping[str, Any], layers: int) -> Precision:
    """The precision that a config.json states for a model of `layers` layers.

    Raises:
        CatalogError: the engine has no such method, or a field is wrong.
    """
    found = _section(config)
    if not found:
        return UNQUANTIZED
    method = _method(found)
    if method in UNKNOWN_SIZE:
        return Precision(method, known=False, sized=False)
    if method.startswith("modelopt"):
        return _modelopt(found, layers)
    if method == "compressed-tensors":
        return _compressed_tensors(found, layers)
    if method in ("fp8", "fbgemm_fp8"):
        block = found.get("weight_block_size")
        size = FP8 + 4 / _product(block) if block is not None else FP8
        excluded = _names(found, "modules_to_not_convert", "ignored_layers")
        return _uniform("fp8", "fp8", size, excluded, layers)
    if method in ("mxfp4", "gpt_oss_mxfp4"):
        return Precision("mxfp4", "none", (("experts", 0.5 + 1 / 32),))
    if method == "experts_int8":
        return Precision(method, "none", (("experts", 1.0),))
    bits, group = _number(found, "bits", (2, 3, 4, 8)), _number(found, "group_size", None)
    if group < 1 and group != -1:
        _fail("group_size", group, "a positive integer, or -1 for whole columns")
    # A 16-bit scale and a zero point for each group; one group of a whole column is negligible.
    size = bits / 8 + ((2 + bits / 8) / group if group > 0 else 0)
    only = found.get("modules_in_block_to_quantize")
    if only is not None:
        return Precision(f"{method} {bits}-bit", known=False, sized=False)
    excluded = _names(found, "modules_to_not_convert")
    return _uniform(f"{method} {bits}-bit", "none", size, excluded, layers, substring=True)


def _uniform(
    name: str,
    compute: Compute,
    size: float,
    excluded: Iterable[str],
    layers: int,
    *,
    substring: bool = False,
    **rest: Any,
) -> Precision:
    """Every linear layer has `size` bytes a weight, except those that are excluded."""
    skipped = _skips(excluded, substring=substring)
    mtp_plain = any(pattern.startswith("mtp") and "*" in pattern for pattern in excluded)
    return _resolved(
        name, compute, lambda i, part: None if skipped(i, part) else size, layers, mtp_plain=mtp_plain, **rest
    )


def _resolved(
    name: str, compute: Compute, size_of: Callable[[int, Component], float | None], layers: int, **rest: Any
) -> Precision:
    """The most frequent size of each kind is its default; other layers are exceptions."""
    parts: list[tuple[Component, float]] = []
    exceptions: list[tuple[int, Component, float | None]] = []
    for part in ALL:
        sizes = [size_of(i, part) for i in range(layers)]
        usual = max(set(sizes), key=sizes.count) if sizes else None
        if usual is not None:
            parts.append((part, usual))
        exceptions += [(i, part, size) for i, size in enumerate(sizes) if size != usual]
    return Precision(name, compute, tuple(parts), exceptions=tuple(exceptions), **rest)


def _modelopt(found: Mapping[str, Any], layers: int) -> Precision:
    inner = found.get("quantization", found)
    if not isinstance(inner, Mapping):
        _fail("quantization", inner, "a mapping")
    algo = str(inner.get("quant_algo") or "").upper()
    kv = modelopt_kv_cache(found)
    excluded = _names(inner, "exclude_modules", "ignore")
    if algo == "MIXED_PRECISION":
        listed = inner.get("quantized_layers")
        if not isinstance(listed, Mapping):
            return Precision("modelopt mixed", known=False, sized=False, kv_cache_dtype=kv)
        by_name = {_canonical(name): _algorithm(entry) for name, entry in listed.items()}

        def size_of(layer: int, part: Component) -> float | None:
            for leaf in MODULES[part]:
                name = f"layers.{layer}.{leaf}"
                # A list may name `experts` as a whole.
                entry = by_name.get(name) or by_name.get(name.rpartition(".")[0])
                if entry is not None:
                    return entry[0]
            return None

        (table, _) = by_name.get("lm_head") or (None, None)
        most = max(by_name.values(), key=list(by_name.values()).count)[1] if by_name else "none"
        return _resolved("modelopt mixed", most, size_of, layers, head=table, kv_cache_dtype=kv)
    if algo not in ALGORITHMS:
        _fail("quant_algo", inner.get("quant_algo"), f"one of {', '.join(ALGORITHMS)}, MIXED_PRECISION")
    stored, compute = ALGORITHMS[algo]
    name = "nvfp4" if "NVFP4" in algo else "fp8"
    head = None if any(_matches(pattern, "lm_head") for pattern in excluded) else stored
    # A list of what is excluded that a checkpoint leaves out is a stub: the size is not stated.
    known = bool(excluded)
    return _uniform(name, compute, stored, excluded, layers, head=head, known=known, kv_cache_dtype=kv)


def _compressed_tensors(found: Mapping[str, Any], layers: int) -> Precision:
    groups = found.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        _fail("config_groups", groups, "a mapping of groups")
    skipped = _skips(_names(found, "ignore"))
    rules: list[tuple[tuple[str, ...], float]] = []
    bits = set()
    for key, group in groups.items():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            _fail(f"config_groups.{key}.weights", weights, "a mapping with num_bits")
        number = _number(weights, "num_bits", (4, 8), f"config_groups.{key}.weights.")
        bits.add(number)
        grouped = weights.get("group_size") or 0
        # FP4 has one-byte scales, integers have scales of the model's type.
        scale = 1 if number == 4 and weights.get("type") == "float" else 2
        rules.append((_names(group, "targets"), number / 8 + (scale / grouped if grouped > 0 else 0)))
    matchers = [(_skips(targets), "Linear" in targets, size) for targets, size in rules]

    def size_of(layer: int, part: Component) -> float | None:
        if skipped(layer, part):
            return None
        return next((size for listed, linear, size in matchers if linear or listed(layer, part)), None)

    kv = found.get("kv_cache_scheme")
    if kv is not None and not isinstance(kv, Mapping):
        _fail("kv_cache_scheme", kv, "a mapping")
    inputs = [group.get("input_activations") for group in groups.values() if isinstance(group, Mapping)]
    floats = any(isinstance(part, Mapping) and part.get("type") == "float" for part in inputs)
    compute: Compute = "none" if not floats else "nvfp4" if bits == {4} else "fp8"
    name = f"compressed-tensors {'/'.join(map(str, sorted(bits)))}-bit"
    return _resolved(name, compute, size_of, layers, kv_cache_dtype="fp8" if kv else None)


def modelopt_kv_cache(found: Mapping[str, Any]) -> str | None:
    """The attention cache type that a ModelOpt checkpoint requests. Source: vLLM utils/torch_utils.py."""
    inner = found.get("quantization", found)
    for key in ("kv_cache_scheme", "kv_cache_quant_algo"):
        for place in (inner, found):
            if isinstance(place, Mapping) and (scheme := place.get(key)):
                if isinstance(scheme, Mapping):
                    bits, floating = scheme.get("num_bits"), scheme.get("type") == "float"
                    if bits == 8 and floating and scheme.get("dynamic") is False:
                        return "fp8"
                    return "nvfp4" if bits == 4 and floating else None
                return {"fp8": "fp8", "fp8_e4m3": "fp8", "nvfp4": "nvfp4"}.get(str(scheme).lower())
    return None


def accepted_methods(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The values of `--quantization` with which the engine loads this checkpoint; empty if it is not quantized.

    Source: vLLM 0.29, `ModelConfig._verify_quantization` and `override_quantization_method` of each method. For a
    ModelOpt checkpoint the engine replaces every value by its own; only those that name ModelOpt are accepted here,
    because another one has no effect.

    Raises:
        CatalogError: the engine has no such method, or a field is wrong.
    """
    if not (found := _section(config)):
        return ()
    method = _method(found)
    for family in SAME_CHECKPOINT:
        if method in family:
            return family
    return (method, "humming")


def _section(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = config.get("quantization_config")
    for name in ("text_config", "llm_config"):
        if found is None and isinstance(text := config.get(name), Mapping):
            found = text.get("quantization_config")
    if found is None:
        found = config.get("compression_config")
    if found is not None and not isinstance(found, Mapping):
        raise CatalogError(WHERE, f"is {found!r}", "a mapping, as the checkpoint has it")
    return found


def _method(found: Mapping[str, Any]) -> str:
    producer = found.get("producer")
    if isinstance(producer, Mapping) and producer.get("name") == "modelopt":
        return "modelopt"
    if isinstance(found.get("quantization"), Mapping) and "quant_algo" in found["quantization"]:
        return "modelopt"
    method = str(found.get("quant_method", "")).lower().replace("_tensors", "-tensors")
    if method not in (*KNOWN, *UNKNOWN_SIZE):
        _fail("quant_method", found.get("quant_method"), f"one of {', '.join(sorted((*KNOWN, *UNKNOWN_SIZE)))}")
    return method


def _skips(patterns: Iterable[str], *, substring: bool = False) -> Callable[[int, Component], bool]:
    """Whether a kind of linear layer of one layer is named by one of the patterns.

    Patterns name modules, parents of modules, or have wildcards (ModelOpt) or regular expressions (``re:``).
    """
    exact: dict[int, list[str]] = {}
    general: list[str] = []
    for pattern in patterns:
        if "mtp" in pattern.partition("layers.")[0] or "visual" in pattern or "vision" in pattern:
            continue
        head = re.match(r"layers\.(\d+)\.(.+)", _canonical(pattern))
        if head and not pattern.startswith("re:"):
            exact.setdefault(int(head[1]), []).append(head[2])
        else:
            general.append(pattern)
    compiled = [_regex(pattern, substring) for pattern in general]

    def skipped(layer: int, part: Component) -> bool:
        leaves = MODULES[part]
        if any(_matches(pattern, leaf) for pattern in exact.get(layer, ()) for leaf in leaves):
            return True
        return any(regex.search(f"model.layers.{layer}.{leaf}") for regex in compiled for leaf in leaves)

    return skipped


def _regex(pattern: str, substring: bool) -> re.Pattern[str]:
    try:
        if pattern.startswith("re:"):
            return re.compile(pattern[3:])
    except re.error as error:
        raise CatalogError(WHERE, f"the pattern {pattern!r} is not valid: {error}", "a regular expression") from None
    if "*" in pattern:
        return re.compile(translate(pattern))
    return re.compile(re.escape(pattern) if substring else rf"(^|\.){re.escape(pattern)}(\.|$)")


def _matches(pattern: str, name: str) -> bool:
    """Whether the pattern names the module or one of its parents; it may end in a wildcard."""
    if pattern.endswith("*"):
        return name.startswith(pattern.rstrip("*").rstrip(".")) or (f"{name}.").startswith(pattern.rstrip("*"))
    return name == pattern or name.startswith(f"{pattern}.")


def _canonical(name: str) -> str:
    """``layers.3.mlp.experts.up_proj`` for ``model.language_model.layers.3.mlp.experts.17.up_proj``."""
    before, found, after = name.partition("layers.")
    if not found or "mtp" in before:
        return name
    # One expert represents all: the engine fuses them.
    return _EXPERT.sub("experts", found + after) if "experts." in after else found + after


def _algorithm(entry: Any) -> tuple[float, Compute]:
    algo = str(entry.get("quant_algo") if isinstance(entry, Mapping) else entry).upper()
    if algo not in ALGORITHMS:
        _fail("quantized_layers.quant_algo", algo, f"one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[algo]


def _names(found: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    for key in keys:
        if (value := found.get(key)) is not None:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                _fail(key, value, "a list of module names")
            return tuple(value)
    return ()


def _number(found: Mapping[str, Any], key: str, allowed: tuple[int, ...] | None, path: str = "") -> int:
    value = found.get(key, -1 if allowed is None else None)
    if isinstance(value, bool) or not isinstance(value, int) or (allowed is not None and value not in allowed):
        _fail(path + key, value, f"one of {', '.join(map(str, allowed))}" if allowed else "an integer")
    return value


def _product(block: Any) -> int:
    if not isinstance(block, list) or len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
        _fail("weight_block_size", block, "two positive integers")
    return int(block[0] * block[1])


def _fail(field: str, value: Any, fix: str) -> NoReturn:
    raise CatalogError(f"{WHERE}.{field}", "is missing" if value is None else f"is {str(value)[:80]!r}", fix)
