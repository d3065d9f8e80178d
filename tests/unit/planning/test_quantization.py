"""How checkpoints state their precision: sizes against published ones, exclusions, attention caches, and bad input."""

from __future__ import annotations

import json
import struct

import pytest

from hybridserve.catalog.checkpoint import checkpoint_size
from hybridserve.catalog.models import load_card, resolve_model
from hybridserve.errors import CatalogError, ConfigError
from hybridserve.planning.memory.weights import DERIVED_BAND, RECIPE_BAND, count_weights, mtp_bytes
from hybridserve.planning.models import read_architecture
from hybridserve.planning.models.quantization import NVFP4, accepted_methods, read_precision
from hybridserve.planning.resolve import deployment_from, find_model, plan_settings
from hybridserve.settings import load
from support.planned_models import NANO_9B, QWEN3_8B

E4M3 = {"num_bits": 8, "type": "float"}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8"}
FP8_BLOCK = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}
GROUPED = {"quant_method": "compressed-tensors"}
INT4 = {"num_bits": 4, "type": "int", "group_size": 128}


def weights_of(config, scheme):
    arch = read_architecture(config | {"quantization_config": scheme})
    return count_weights(arch, precision=arch.precision)


@pytest.mark.parametrize(
    ("scheme", "bits"),
    # A 16-bit scale and a 4-bit zero point for 128 weights; a 32-bit scale for a block of 128 x 128.
    [({"quant_method": "awq", "bits": 4, "group_size": 128}, 4 + 20 / 128), (FP8_BLOCK, 8 + 32 / 128**2)],
)
def test_linear_layers_have_the_stated_bits_and_tables_keep_their_type(scheme, bits):
    weights = weights_of(QWEN3_8B, scheme)
    linear = 36 * (4096 * 128 * (32 + 8 + 8 + 32) + 3 * 4096 * 12288)
    assert weights.bytes == pytest.approx(linear * bits / 8 + (8_190_735_360 - linear) * 2, abs=8)
    assert weights.band == round(DERIVED_BAND * weights.bytes)
    assert "the size is not known" in weights.how


def test_listed_exclusions_give_the_size_of_the_30b_checkpoint():
    model = resolve_model("nemotron-3-nano-30b-a3b-nvfp4")
    arch = read_architecture(model.config)
    published = load_card("nemotron-3-nano-30b-a3b-nvfp4").weights.bytes
    assert count_weights(arch, precision=arch.precision).bytes == pytest.approx(published, rel=0.001)
    assert arch.kv_cache_dtype == "fp8"


@pytest.mark.parametrize(
    ("scheme", "kept"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["backbone.layers.5.mixer*"]}, {5}),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["backbone.layers.5.mixer.up_proj"]}, {5}),
        ({"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["*layers.5.*"]}}, {5}),
        ({"quant_method": "fp8", "modules_to_not_convert": ["backbone.layers.5.mixer.up_proj"]}, {5}),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "modules_to_not_convert": ["layers.5."]}, {5}),
        (
            GROUPED
            | {
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4}},
                "ignore": [r"re:.*layers\.(3|5)\..*"],
            },
            {3, 5},
        ),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {
                    f"backbone.layers.{i}.mixer.up_proj": {"quant_algo": "FP8"} for i in range(56) if i != 5
                },
            },
            {5},
        ),
    ],
)
def test_excluded_modules_keep_the_type_of_the_model(scheme, kept):
    precision = read_precision({"quantization_config": scheme}, 56)
    assert dict(precision.parts)["mlp"] < 2
    assert {layer for layer, part, size in precision.exceptions if part == "mlp" and size is None} == kept


def test_mixed_precision_has_the_size_of_each_listed_layer():
    listed = {
        "model.language_model.layers.0.mlp.experts": {"quant_algo": "W4A16_NVFP4"},
        "model.layers.0.mlp.shared_expert.up_proj": {"quant_algo": "W4A16_NVFP4"},
        "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
        "lm_head": {"quant_algo": "W4A16_NVFP4"},
    }
    scheme = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": listed}
    precision = read_precision({"quantization_config": scheme}, 1)
    assert dict(precision.parts) == {"qkv": 1.0, "experts": NVFP4, "shared": NVFP4}
    assert precision.head == NVFP4


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        (MODELOPT | {"kv_cache_quant_algo": "FP8"}, "fp8"),
        (
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}},
            "fp8",
        ),
        (MODELOPT | {"kv_cache_scheme": E4M3 | {"dynamic": False}}, "fp8"),
        (MODELOPT | {"kv_cache_scheme": E4M3 | {"dynamic": True}}, None),
        (MODELOPT, None),
        (
            GROUPED
            | {"config_groups": {"g": {"targets": ["Linear"], "weights": INT4}}, "kv_cache_scheme": {"num_bits": 8}},
            "fp8",
        ),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, None),
    ],
)
def test_declared_attention_cache(scheme, dtype):
    assert read_architecture(NANO_9B | {"quantization_config": scheme}).kv_cache_dtype == dtype


@pytest.mark.parametrize(
    ("scheme", "where"),
    [
        ("fp8", ""),
        ({}, None),
        ({"bits": 4}, ".quant_method"),
        ({"quant_method": "bitsandbytes"}, ".quant_method"),
        ({"quant_method": "modelopt"}, ".quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": "FP6"}, ".quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": "lm_head"}, ".ignore"),
        (
            {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8", "exclude_modules": [3]}},
            ".exclude_modules",
        ),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {"a": {"quant_algo": "X"}},
            },
            ".quantized_layers.quant_algo",
        ),
        ({"quant_method": "awq", "group_size": 128}, ".bits"),
        ({"quant_method": "gptq", "bits": 5, "group_size": 128}, ".bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": "128"}, ".group_size"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, ".group_size"),
        (
            GROUPED | {"config_groups": {"g": {"targets": ["Linear"], "weights": INT4}}, "kv_cache_scheme": 1},
            ".kv_cache_scheme",
        ),
        ({"quant_method": "fp8", "weight_block_size": [128]}, ".weight_block_size"),
        (GROUPED, ".config_groups"),
        (GROUPED | {"config_groups": {"g": {"targets": ["Linear"]}}}, ".config_groups.g.weights"),
        (GROUPED | {"config_groups": {"g": {"weights": {"num_bits": 3}}}}, ".config_groups.g.weights.num_bits"),
        (GROUPED | {"config_groups": {"g": {"targets": ["Linear"], "weights": INT4}}, "ignore": ["re:("]}, ""),
    ],
)
def test_bad_quantization_config_names_the_field_and_what_is_allowed(scheme, where):
    config = NANO_9B | {"quantization_config": scheme}
    if where is None:
        assert read_architecture(config).precision.name == "none"
        return
    with pytest.raises(CatalogError) as error:
        read_architecture(config)
    assert error.value.where == f"config.json: quantization_config{where}"
    assert error.value.what
    assert error.value.fix


def write_model(folder, config, **files):
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / f"{name.replace('_json', '.json').replace('__', '.')}").write_text(json.dumps(content))
    return str(folder)


def write_shard(path, tensors):
    header = json.dumps(
        {"__metadata__": {"format": "pt"}}
        | {name: {"dtype": "BF16", "shape": [1], "data_offsets": span} for name, span in tensors.items()}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def plan(model, *assignments):
    names = [f"model.id={json.dumps(model)}", "accelerator.name=h100", *assignments]
    return plan_settings(load(assignments=names, environ={}).settings).advice.plan


def test_size_is_read_from_the_index_or_the_shards(tmp_path):
    assert checkpoint_size(tmp_path) is None
    write_shard(tmp_path / "model-00001.safetensors", {"a": [0, 100], "mtp.b": [100, 130]})
    write_shard(tmp_path / "model-00002.safetensors", {"c": [0, 7]})
    found = checkpoint_size(tmp_path)
    assert (found.bytes, found.has_mtp) == (137, True)
    index = {"metadata": {"total_size": 140}, "weight_map": {"a": "x"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = checkpoint_size(tmp_path)
    assert (found.bytes, found.has_mtp) == (140, False)
    assert "index" in found.source


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1", b"", b"\x02\0\0\0\0\0\0\0[]"])
def test_file_that_is_no_checkpoint_leaves_the_size_unknown(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert checkpoint_size(tmp_path) is None


def test_folder_gives_the_size_and_the_separate_quantization_config(tmp_path):
    separate = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    model = write_model(tmp_path, NANO_9B, hf_quant_config_json=separate)
    guessed = plan(model)
    assert guessed.weights.band == round(RECIPE_BAND * guessed.weights.bytes)
    assert guessed.layout.kv_cache_dtype == "fp8"
    index = {"metadata": {"total_size": 10_290_000_000}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    known = plan(model)
    assert (known.weights.bytes, known.weights.band) == (10_290_000_000, 0)
    assert known.budget.band < guessed.budget.band


def test_size_that_cannot_be_known_has_a_setting(tmp_path):
    model = write_model(tmp_path, NANO_9B | {"quantization_config": {"quant_method": "quark"}})
    with pytest.raises(ConfigError) as error:
        plan(model)
    assert error.value.where == "model.weight_bytes"
    known = plan(model, "model.weight_bytes=9000000000")
    assert known.weights.bytes == 9_000_000_000
    assert "set by you" in known.weights.how


def test_draft_module_of_the_checkpoint_is_not_loaded_without_speculation(tmp_path):
    lightning = resolve_model("nemotron-3.5-lightning-30b-a3b").config
    arch = read_architecture(lightning)
    assert mtp_bytes(arch) == pytest.approx(2.67e9, rel=0.01)
    total = 18_873_000_000 + mtp_bytes(arch)
    index = {"metadata": {"total_size": total}, "weight_map": {"mtp.layers.0.eh_proj.weight": "x"}}
    model = write_model(tmp_path, lightning)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    draft = 'engine.speculative_config={"method": "mtp", "num_speculative_tokens": 2}'
    assert plan(model).weights.bytes == 18_873_000_000
    assert plan(model, draft).weights.bytes == total


def test_online_quantization_is_counted_or_refused(tmp_path):
    model = write_model(tmp_path, QWEN3_8B)
    plain, half = plan(model), plan(model, "engine.extra_args.quantization=fp8")
    tables = 2 * QWEN3_8B["vocab_size"] * QWEN3_8B["hidden_size"] * 2
    assert half.weights.bytes == pytest.approx((plain.weights.bytes - tables) / 2 + tables, rel=0.001)
    assert half.weights.band
    with pytest.raises(ConfigError, match=r"engine\.extra_args\.quantization"):
        plan(model, "engine.extra_args.quantization=awq")


@pytest.mark.parametrize(
    ("model", "own", "others"),
    [
        ("kimi-k3", "compressed-tensors", ("fp8", "banana", "modelopt")),
        ("nemotron-3-nano-30b-a3b-nvfp4", "modelopt_fp4", ("fp8", "banana", "compressed-tensors")),
        # Its config.json was not read: the card names the recipe.
        ("nemotron-3-nano-30b-a3b-fp8", "modelopt", ("fp8", "awq")),
    ],
)
def test_a_quantized_checkpoint_is_not_converted_again(model, own, others):
    def asked(method):
        assignments = [f"model.id={model}", "accelerator.name=b300", f"engine.extra_args.quantization={method}"]
        settings = load(None, assignments, environ={}).settings
        return deployment_from(settings, find_model(settings))

    assert asked(own).precision == asked(own.upper()).precision
    for method in others:
        with pytest.raises(ConfigError, match=f"is '{method}', and the checkpoint is quantized already"):
            asked(method)


def test_the_kernels_of_a_checkpoint_may_be_chosen():
    awq = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    assert {"awq", "awq_marlin"} < set(accepted_methods(awq))
    assert "gptq" not in accepted_methods(awq)
    assert accepted_methods({}) == ()


def test_reported_size_of_a_card_without_a_config_is_used():
    found = plan("nemotron-3-nano-30b-a3b-fp8")
    assert found.weights.bytes == 32_700_000_000
    assert found.weights.how == "reported size, not confirmed"
