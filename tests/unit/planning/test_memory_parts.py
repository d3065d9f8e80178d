"""Parts of memory besides the language model: encoders, draft modules, adapters, weights in the host, experts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hybridserve.errors import CatalogError, ConfigError
from hybridserve.planning.cache.layout import compute_layout
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.drafts import with_mtp
from hybridserve.planning.memory.budget import MemoryRequest, encoder_peak
from hybridserve.planning.memory.lora import LoraSlots, lora_bytes
from hybridserve.planning.memory.weights import count_weights, mtp_bytes
from hybridserve.planning.models import read_architecture
from hybridserve.planning.resolve import plan_settings
from hybridserve.settings import load
from hybridserve.units import GIB
from support.startup_logs import DFLASH, LOGS, QWEN_9B, QWEN_27B, QWEN_35B_A3B


def plan(*assignments, model="qwen3-8b", device="l40s"):
    names = [f"model.id={model}", f"accelerator.name={device}", *assignments]
    return plan_settings(load(assignments=names, environ={}).settings).advice.plan


def test_adapter_slots_have_two_matrices_of_each_linear_layer(qwen):
    rows = 4096 + 4096 + 2 * (4096 + 1024) + 4096 + 4096 + 3 * (4096 + 12288)
    assert lora_bytes(qwen, LoraSlots(2, 16), "auto", 1) == 36 * rows * 16 * 2 * 2
    split = 4096 + 2048 + 2 * (4096 + 512) + 2048 + 4096 + 2 * (4096 + 6144) + 6144 + 4096
    assert lora_bytes(qwen, LoraSlots(2, 16), "auto", 2) == 36 * split * 16 * 2 * 2


def test_adapters_and_weights_in_the_host_change_the_pool():
    plain = plan()
    adapters = plan("engine.extra_args.enable_lora=true", "engine.extra_args.max_lora_rank=64")
    assert adapters.budget.lora == lora_bytes(plain.deployment.arch, LoraSlots(1, 64), "auto", 1)
    assert adapters.budget.weights == plain.budget.weights + adapters.budget.lora
    offloaded = plan("engine.extra_args.cpu_offload_gb=4")
    assert offloaded.budget.weights == plain.budget.weights - 4 * GIB
    # What is modeled widens the band.
    assert adapters.budget.band > plain.budget.band
    assert offloaded.budget.band > plain.budget.band


def test_experts_are_whole_on_each_rank_with_expert_parallelism():
    arch = read_architecture(QWEN_35B_A3B)
    split, whole = (count_weights(arch, tensor_parallel_size=4, expert_parallel=ep).bytes for ep in (False, True))
    assert split == whole
    uneven = replace(arch, moe=replace(arch.moe, experts=254))
    more = count_weights(uneven, tensor_parallel_size=4, expert_parallel=True).bytes
    # 64 experts on the fullest rank, not 63.5.
    assert more == whole - 40 * 2 * 2048 * 2


def test_encoding_the_largest_image_has_the_peak_of_a_public_log():
    # RTX PRO 6000, vLLM 0.29.0: 2.58 GiB of activations, which include the estimate of the graphs, 0.69 GiB.
    log = next(log for log in LOGS if log.id == "A10")
    arch = read_architecture(log.model)
    request = MemoryRequest(
        total_bytes=GIB, gpu_memory_utilization=0.9, max_num_seqs=256, max_num_batched_tokens=8192, max_capture_size=512
    )
    assert encoder_peak(arch, request) / GIB == pytest.approx(2.58 - 0.69, rel=0.02)
    assert encoder_peak(replace(arch, tower=None), request) == 0


@pytest.mark.parametrize(("config", "attention", "size"), [(QWEN_27B, 16, 17), (QWEN_9B, 8, 9)])
def test_draft_module_has_a_cache_layer_and_weights(config, attention, size):
    arch = read_architecture(config)
    assert arch.attention_layers == attention
    drafting = replace(arch, uses_mtp=True)
    layout = compute_layout(drafting, CacheRequest(kv_bytes=0, num_speculative_tokens=2))
    # vLLM: the draft layer has the specification of the model's attention layers, so it is one more of them.
    assert max(group.layers for group in layout.groups) == size
    assert layout.bytes_per_block == size * layout.page_bytes
    # One attention layer with its MLP, a projection of two inputs, norms.
    assert count_weights(drafting).bytes - count_weights(arch).bytes == mtp_bytes(arch)


@pytest.mark.parametrize("method", ["mtp", "eagle3"])
def test_draft_that_cannot_be_counted_is_named(method):
    config = f'{{"method": "{method}", "model": "yuhuili/x", "num_speculative_tokens": 3}}'
    drafting = plan(f"engine.speculative_config={config}", model="nemotron-nano-9b-v2")
    assert any(warning.startswith("not counted: the draft model yuhuili/x") for warning in drafting.warnings)


@pytest.mark.parametrize(
    ("change", "tokens", "message"),
    [
        ({"mtp_num_hidden_layers": 0}, 2, "Unsupported speculative method: 'mtp'"),
        ({"mtp_num_hidden_layers": 2}, 3, "must be divisible by n_predict=2"),
    ],
)
def test_mtp_that_the_engine_refuses_is_refused(change, tokens, message):
    arch = read_architecture({**QWEN_9B, "text_config": {**QWEN_9B["text_config"], **change}})
    with pytest.raises(ConfigError, match=message):
        with_mtp(arch, tokens)


def test_language_model_alone_has_no_encoder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN_9B))
    whole = plan(model=json.dumps(str(tmp_path)))
    text = plan("engine.extra_args.language_model_only=true", model=json.dumps(str(tmp_path)))
    assert whole.weights.bytes > text.weights.bytes
    assert whole.budget.activation > text.budget.activation
    assert not text.warnings


def test_draft_model_in_a_folder_is_counted_or_named(tmp_path):
    def drafting(**changes):
        (tmp_path / "config.json").write_text(json.dumps({**DFLASH, **changes}))
        config = {"method": "dflash", "model": str(tmp_path), "num_speculative_tokens": 7}
        return plan(f"engine.speculative_config={json.dumps(config)}", model="qwen3-8b")

    alone = plan(model="qwen3-8b")
    counted = drafting()
    layer = 5120 * 128 * 2 * (32 + 8) + 3 * 5120 * 17408 + 2 * 5120
    assert counted.weights.bytes - alone.weights.bytes == 2 * (5 * layer + 5120 + 3 * 4096 * 5120)
    assert [group.kind for group in counted.layout.groups].count("window") == 1
    assert not any("not counted" in warning for warning in counted.warnings)
    other = drafting(num_key_value_heads=2)
    assert any("the cache of the draft model" in warning for warning in other.warnings)
    with pytest.raises(CatalogError, match="num_hidden_layers"):
        drafting(num_hidden_layers="five")
