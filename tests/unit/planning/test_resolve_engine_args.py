"""Engine arguments, and their renderings."""

from __future__ import annotations

import json

import pytest
import yaml

from hybridserve.catalog.models import model_ids
from hybridserve.cli import main
from hybridserve.errors import ConfigError, PlanRefused
from hybridserve.planning.render import command_line, llm_config, shell
from hybridserve.planning.resolve import PlanOptions, engine_args, engine_environment, plan_settings
from hybridserve.planning.serialize import report
from hybridserve.settings import load
from support.planned_models import NANO_9B, QWEN3_8B


def settings_of(*assignments: str):
    return load(None, assignments, environ={}).settings


@pytest.fixture
def nano_folder(tmp_path):
    folder = tmp_path / "nano"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(NANO_9B))
    return folder


def test_demo_model_arguments_on_cpu():
    args = engine_args(settings_of())
    assert args["served_model_name"] == ["demo"]
    assert args["dtype"] == "bfloat16"
    assert args["kv_cache_memory_bytes"] == 256 << 20
    assert args["mamba_ssm_cache_dtype"] == "float32"
    assert args["enforce_eager"] is True
    assert 1 <= args["max_num_seqs"] <= 8
    assert "gpu_memory_utilization" not in args
    assert "trust_remote_code" not in args


def test_cpu_engine_environment():
    assert engine_environment(settings_of()) == {"OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"}
    assert engine_environment(settings_of("engine.enforce_eager=false")) == {"OMP_NUM_THREADS": "1"}
    assert engine_environment(settings_of("accelerator.name=l40s", "engine.enforce_eager=true")) == {}


def test_telemetry_settings_reach_the_engine():
    quiet = engine_args(settings_of())
    assert not {"otlp_traces_endpoint", "enable_log_requests"} & set(quiet)
    loud = engine_args(settings_of("telemetry.otlp_endpoint=http://collector:4317", "telemetry.log_requests=true"))
    assert (loud["otlp_traces_endpoint"], loud["enable_log_requests"]) == ("http://collector:4317", True)


def test_settings_take_precedence_over_recommendation_and_card():
    settings = settings_of(
        "model.id=nemotron-nano-9b-v2",
        "accelerator.name=l40s",
        "engine.max_num_seqs=4",
        "engine.max_num_batched_tokens=4096",
        "engine.gpu_memory_utilization=0.8",
        "engine.watermark=0.2",
        "engine.reasoning_parser=mine",
        "engine.enforce_eager=true",
        "engine.prefix_match_unit=32",
        "engine.kv_cache_dtype=auto",
        "engine.extra_args={max_logprobs: 5}",
        "model.served_name=nano",
    )
    args = engine_args(settings)
    expected = {
        "max_num_seqs": 4,
        "max_num_batched_tokens": 4096,
        "gpu_memory_utilization": 0.8,
        "watermark": 0.2,
        "reasoning_parser": "mine",
        "enforce_eager": True,
        "prefix_match_unit": 32,
        "max_logprobs": 5,
        "served_model_name": ["nano"],
    }
    assert {name: args[name] for name in expected} == expected
    assert "kv_cache_dtype" not in args


def test_argument_set_twice_is_refused():
    with pytest.raises(ConfigError) as caught:
        engine_args(settings_of("engine.extra_args={max_num_seqs: 5}"))
    assert caught.value.where == "engine.extra_args.max_num_seqs"
    assert caught.value.fix == "set engine.max_num_seqs instead"


NANO_ON_H100 = ("model.id=nemotron-nano-9b-v2", "accelerator.name=h100", "engine.kv_cache_memory_bytes=4294967296")


@pytest.mark.parametrize(
    ("extra", "field", "value"),
    [
        ("num_gpu_blocks_override: 150", "num_blocks", 150),
        ("num-gpu-blocks-override: 150", "num_blocks", 150),
        ("mamba_block_size: 2816", "mamba_block_size", 2816),
    ],
)
def test_extra_args_that_affect_the_cache_are_planned(extra, field, value):
    more = ("engine.mamba_cache_mode=all", "engine.max_model_len=4096") if "mamba" in extra else ()
    plan = plan_settings(settings_of(*NANO_ON_H100, *more, f"engine.extra_args={{{extra}}}")).advice.plan.cache
    assert plan is not None
    assert {"num_blocks": plan.num_blocks, "mamba_block_size": plan.layout.mamba_block_size}[field] == value


def test_piecewise_graphs_need_no_block_per_sequence():
    asked = (*NANO_ON_H100, "engine.max_num_seqs=256", "engine.max_model_len=8192")
    with pytest.raises(PlanRefused, match="exceeds available Mamba cache blocks"):
        plan_settings(settings_of(*asked))
    plan = plan_settings(settings_of(*asked, "engine.extra_args={compilation_config: {cudagraph_mode: PIECEWISE}}"))
    assert plan.advice.plan.max_num_seqs == 256
    assert plan.advice.plan.budget.graphs > 0, "they are captured all the same"


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("enable_chunked_prefill: false", "Chunked prefill"),
        ("use_replayssm: true", "Model Runner"),
        ("num_gpu_blocks_override: many", "integer"),
        ("use_replayssm: 1", "true or false"),
    ],
)
def test_invalid_extra_args_are_refused(extra, what):
    version = "engine.version=0.32.0" if "replay" in extra else "engine.version=0.29.0"
    with pytest.raises((PlanRefused, ConfigError), match=what):
        plan_settings(settings_of(*NANO_ON_H100, version, f"engine.extra_args={{{extra}}}"))


def test_tool_parser_enables_auto_tool_choice():
    args = engine_args(settings_of("model.id=qwen3-8b", "accelerator.name=l40s"))
    assert args["tool_call_parser"] == "hermes"
    assert args["enable_auto_tool_choice"] is True


def test_weights_beside_config_json_are_the_source(nano_folder):
    args = engine_args(settings_of(f"model.id={nano_folder}", "accelerator.name=l40s"))
    assert args["model"] == str(nano_folder)
    other = engine_args(
        settings_of("model.id=nemotron-nano-9b-v2", f"model.source={nano_folder}", "accelerator.name=l40s")
    )
    assert other["model"] == str(nano_folder)
    assert other["served_model_name"] == ["nemotron-nano-9b-v2"]


@pytest.mark.parametrize("model", model_ids())
def test_renderings_agree_with_engine_args(model, capsys):
    # The demo's few heads cannot be split; the largest models need a node or two.
    size = {"demo": 1, "nemotron-3-ultra-550b-a55b": 8, "kimi-k3": 16}.get(model, 2)
    parallel = f"engine.tensor_parallel_size={size}"
    settings = settings_of(f"model.id={model}", "accelerator.name=b200", parallel)
    planned = plan_settings(settings, PlanOptions())
    args = engine_args(settings, planned)
    assert engine_args(settings) == args
    assert json.loads(json.dumps(args)) == args
    config = llm_config(settings, args)
    assert {
        **config["engine_kwargs"],
        "model": config["model_loading_config"]["model_source"],
        "served_model_name": [config["model_loading_config"]["model_id"]],
    } == args
    assert config["accelerator_type"] == "B200"
    flags = ["render", "vllm", model, "--gpu", "b200", "--set", parallel]
    assert run(capsys, *flags, "--json") == json.dumps(args, indent=2) + "\n"
    assert yaml.safe_load(run(capsys, *flags, "--format", "llmconfig")) == config
    assert run(capsys, *flags) == shell(command_line(args, "127.0.0.1", 8000)) + "\n"


@pytest.mark.parametrize(("asked", "length"), [((), 2048), (("engine.max_model_len=8192",), 8192)])
def test_model_without_a_context_gets_the_engines_default(asked, length):
    """Its config names none, and then vLLM refuses to choose what fits."""
    settings = settings_of("model.id=falcon-mamba-7b", "accelerator.name=l40s", *asked)
    assert engine_args(settings)["max_model_len"] == length


def test_command_lines_quote_and_negate():
    args = {"model": "a b", "enable_prefix_caching": False, "hf_overrides": {"x": 1}, "logits_processors": ["p", "q"]}
    words = command_line(args)
    assert words == [
        "vllm",
        "serve",
        "a b",
        "--no-enable-prefix-caching",
        "--hf-overrides",
        '{"x":1}',
        "--logits-processors",
        "p",
        "q",
    ]
    assert shell(words).splitlines()[0] == "vllm serve 'a b' \\"
    assert "'{\"x\":1}'" in shell(words)


def run(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    assert caught.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize(("version", "limit", "other"), [("0.29.0", 32768, 40960), ("0.32.0", 40960, 32768)])
def test_report_has_one_limit_of_the_context(tmp_path, version, limit, other):
    """YaRN in 0.29 derives original length times factor; later releases use max_position_embeddings."""
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16384}
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B | {"rope_parameters": rope}))
    names = [f"model.id={json.dumps(str(tmp_path))}", "accelerator.name=h100", f"engine.version={version}"]
    content = report(plan_settings(settings_of(*names)))
    assert content["capacity"]["max_model_len"] == limit
    assert f"{other:,}" not in json.dumps(content)
    with pytest.raises(ConfigError, match=f"{limit:,}"):
        plan_settings(settings_of(*names, f"engine.max_model_len={limit + 1}"))
