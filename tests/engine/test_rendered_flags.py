"""The installed engine's parser accepts every rendered flag, and Ray's LLMConfig every rendered argument."""

from __future__ import annotations

import pytest

from hybridserve.catalog.accelerators import accelerators
from hybridserve.catalog.models import load_card, model_ids, resolve_model
from hybridserve.errors import PlanRefused
from hybridserve.planning.render import command_line, llm_config
from hybridserve.planning.resolve import PlanOptions, engine_args, plan_settings
from hybridserve.settings import load

pytestmark = pytest.mark.engine

GPUS = [entry.id for entry in accelerators() if entry.id != "generic"]


@pytest.fixture(scope="module")
def parser():
    from vllm.entrypoints.cli.serve import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


def accepted(parser, args) -> None:
    """Parse the command line, and find every value again under its own name."""
    words = command_line(args, "127.0.0.1", 8000)
    assert words[:2] == ["vllm", "serve"]
    parsed, unknown = parser.parse_known_args(words[2:])
    assert unknown == []
    for name, value in args.items():
        found = parsed.model_tag if name == "model" else getattr(parsed, name)
        assert found == value, name


def test_parsers_of_every_card_are_in_the_engine():
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    facts = [load_card(model).serving for model in model_ids()]
    named = {fact.reasoning_parser for fact in facts}, {fact.tool_call_parser for fact in facts}
    assert named[0] - {None} <= set(ReasoningParserManager.list_registered())
    assert named[1] - {None} <= set(ToolParserManager.list_registered())
    assert len(named[0]) > 2
    assert len(named[1]) > 2


SWITCHED_BY_WORDS = [
    model
    for model in model_ids()
    if (serving := load_card(model).serving).reasoning_switch == "system" and serving.reasoning_parser
]


@pytest.mark.parametrize("model", SWITCHED_BY_WORDS)
@pytest.mark.parametrize(
    ("thinks", "written", "separated"),
    [(True, "why</think>\n\nanswer", ("why", "answer")), (False, "answer", (None, "answer"))],
)
def test_reasoning_parser_separates_what_the_gateway_switches(model, thinks, written, separated):
    """The template of these models ends the prompt with <think>, or with <think></think> after /no_think."""
    from transformers import AutoTokenizer
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.reasoning import ReasoningParserManager

    switched = {"enable_thinking": thinks}
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("demo").folder)
    parser_class = ReasoningParserManager.get_reasoning_parser(load_card(model).serving.reasoning_parser)
    parser = parser_class(tokenizer, chat_template_kwargs=switched)
    request = ChatCompletionRequest(messages=[], chat_template_kwargs=switched)
    reasoning, content = parser.extract_reasoning(written, request)
    assert (reasoning, content.strip()) == separated


# No single GPU holds it, nor does a node.
SIZES = {"kimi-k3": 16}


@pytest.mark.parametrize("goal", ["throughput", "latency", "context"])
@pytest.mark.parametrize("model", model_ids())
def test_rendered_flags_of_every_model_and_gpu_are_accepted(parser, model, goal):
    started = 0
    for gpu in GPUS:
        parallel = f"engine.tensor_parallel_size={SIZES.get(model, 1)}"
        settings = load(None, [f"model.id={model}", f"accelerator.name={gpu}", parallel], environ={}).settings
        try:
            planned = plan_settings(settings, PlanOptions(goal=goal))
        except PlanRefused:
            continue
        accepted(parser, engine_args(settings, planned))
        started += 1
    assert started


def test_passed_on_settings_are_accepted(parser):
    settings = load(
        None,
        [
            "model.id=nemotron-nano-9b-v2",
            "accelerator.name=h200",
            "engine.tensor_parallel_size=2",
            "engine.pipeline_parallel_size=2",
            "engine.mamba_cache_mode=align",
            "engine.prefix_match_unit=16",
            "engine.mamba_cache_dtype=bfloat16",
            "engine.mamba_ssm_cache_dtype=float16",
            "engine.enable_mamba_cache_stochastic_rounding=true",
            "engine.kv_cache_dtype=fp8",
            "engine.watermark=0.1",
            "engine.max_num_queued_reqs=64",
            "engine.enforce_eager=true",
            "engine.trust_remote_code=true",
            "engine.hf_overrides={max_position_embeddings: 131072}",
            "engine.chat_template=template.jinja",
            "engine.tool_call_parser=hermes",
            "engine.reasoning_parser=deepseek_r1",
            "engine.logits_processors=[package.module.Processor]",
            "engine.extra_args={max_logprobs: 5}",
            "model.revision=0123456789012345678901234567890123456789",
        ],
        environ={},
    ).settings
    accepted(parser, engine_args(settings))


@pytest.mark.parametrize("model", model_ids())
def test_ray_llm_config_accepts_the_rendered_config(model):
    from ray.serve.llm import LLMConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    for gpu in GPUS:
        settings = load(None, [f"model.id={model}", f"accelerator.name={gpu}"], environ={}).settings
        try:
            args = engine_args(settings, plan_settings(settings))
        except PlanRefused:
            continue
        config = LLMConfig(**llm_config(settings, args)).get_engine_config()
        engine = config.get_initialization_kwargs()
        assert args.items() <= {**engine, **config.frontend_kwargs}.items()
        taken = {**vars(AsyncEngineArgs(**engine)), **vars(FrontendArgs(**config.frontend_kwargs))}
        assert {name: taken[name] for name in args} == args
