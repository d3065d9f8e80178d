"""Every field of vLLM's API models that can hold text: judged, refused, or shown not to reach the prompt.

The cases are generated from the installed vLLM's pydantic models, so that a field of a new release fails here.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, get_args

import pytest

from hybridserve.compliance.overrides import JUDGED_ARGUMENTS, WHOLE_NAMES
from hybridserve.gateway.auth.routes import UNGUARDED_ONLY, WITHOUT_GENERATED_TEXT, Routes
from hybridserve.gateway.requests.judged_text import SETTINGS
from hybridserve.gateway.responses.response_fields import EVENTS_BY_API, RESPONSES_BY_API, read_event, read_response
from support.api_samples import fields_of, samples
from support.fake_engine import FakeEngine
from support.gateway_client import WordGuard, gateway, send

pytestmark = pytest.mark.engine

MARKER = "BANNED text"
TOKENS = [7777777]
USER = [{"role": "user", "content": "hi"}]
BASE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER, "model": "m"},
    "/v1/completions": {"prompt": "hi", "model": "m"},
    "/v1/responses": {"input": "hi", "model": "m"},
    "/v1/messages": {"messages": USER, "max_tokens": 5, "model": "m"},
}
# Fields that are judged, beside the conversation, or refused by the default settings or by the guard.
JUDGED = {"messages", "prompt", "input", "system", "instructions", "suffix", "text", "tools", "documents",
          "tool_choice", "response_format", "structured_outputs", "output_config"}  # fmt: skip
REFUSED = {"chat_template", "kv_transfer_params", "ec_transfer_params", "mm_processor_kwargs", "media_io_kwargs",
           "vllm_xargs", "prompt_embeds", "previous_response_id", "previous_input_messages"}  # fmt: skip
# Places of text and token IDs that pass without a check; `test_what_passes_does_not_reach_the_prompt` is the proof.
PASSES = {
    ".allowed_token_ids[int]",
    ".bad_words[]",
    ".cache_salt",
    ".logit_bias{key}",
    ".metadata{key}",
    ".metadata{}",
    ".model",
    ".prompt_cache_key",
    ".reasoning.mode",
    ".request_id",
    ".session_id",
    ".stop",
    ".stop[]",
    ".stop_sequences[]",
    ".stop_token_ids[int]",
    ".user",
}


@cache
def request_models() -> dict[str, Any]:
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    models = (ChatCompletionRequest, CompletionRequest, ResponsesRequest, AnthropicMessagesRequest)
    return dict(zip(BASE, models, strict=True))


def requests(path: str) -> list[tuple[str, dict[str, Any]]]:
    """Place and body, once for each body."""
    found = {json.dumps(body, sort_keys=True): (place, {**BASE[path], **body})
             for place, body in samples(request_models()[path], MARKER, TOKENS)}  # fmt: skip
    return list(found.values())


@pytest.mark.parametrize("path", BASE)
def test_every_request_field_is_known(path: str) -> None:
    assert set(fields_of(request_models()[path])) - SETTINGS - JUDGED - REFUSED == set()


@pytest.mark.parametrize("path", BASE)
def test_text_in_every_request_field_is_judged_or_refused(path: str) -> None:
    engine = FakeEngine(answer={})
    app = gateway(engine, WordGuard())
    cases, outcomes = requests(path), set()
    for place, body in cases:
        engine.bodies.clear()
        result = send(app, body, path)
        if engine.bodies:
            assert place in PASSES, f"{place} reached the engine unjudged: {body}"
        else:
            assert result.status == 400, (place, result.body)
            outcomes.add(result.error["code"])
    assert len(cases) > 30
    assert "guard_blocked" in outcomes


@pytest.mark.parametrize("path", BASE)
def test_what_passes_does_not_reach_the_prompt(path: str) -> None:
    passing = [(place, body) for place, body in requests(path) if place in PASSES]
    assert passing
    for place, body in passing:
        assert MARKER not in _prompt_source(path, body), place
        assert str(TOKENS[0]) not in _prompt_source(path, body), place
    judged = next(body for place, body in requests(path) if place in (".messages[].content", ".prompt", ".input"))
    assert MARKER in _prompt_source(path, judged), "the source of the prompt is what is searched"


def _prompt_source(path: str, body: dict[str, Any]) -> str:
    """Everything that vLLM gives to its renderer for this request."""
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.entrypoints.openai.responses.utils import construct_input_messages, construct_tool_dicts

    request = request_models()[path].model_validate(body)
    if path == "/v1/completions":
        return repr((request.prompt, request.suffix))
    if path == "/v1/messages":
        request = AnthropicServingMessages.to_chat_completion_request(request)
    params = request.build_chat_params(None, "auto")
    if path == "/v1/responses":
        messages: Any = construct_input_messages(request_instructions=request.instructions, request_input=request.input)
        return repr((messages, construct_tool_dicts(request.tools, request.tool_choice), params))
    return repr((request.messages, request.tools, params))


# --- responses

# Places of strings that the engine sets, or repeats from the request.
LABELS = {"id", "type", "object", "role", "status", "model", "finish_reason", "stop_reason", "system_fingerprint",
          "service_tier", "item_id", "server_label", "container_id"}  # fmt: skip
REPEATED = {"instructions", "metadata", "prompt", "reasoning", "text", "tool_choice", "tools", "user", "truncation",
            "previous_response_id", "incomplete_details"}  # fmt: skip
DROPPED = {"annotations", "audio", "logprobs", "token_ids", "routed_experts", "prompt_logprobs", "prompt_token_ids",
           "prompt_text", "kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages", "error",
           "source", "tool_use_id", "content", "is_error", "tool_name", "data", "obfuscation", "async",
           "caller", "encrypted_content"}  # fmt: skip
# Items of the Responses API that vLLM makes for a model without built-in tools.
MADE_BY_VLLM = ("ResponseOutputMessage", "ResponseReasoningItem", "ResponseFunctionToolCall")


@cache
def response_models() -> list[tuple[str, bool, Any]]:
    """API, whether it is an event of a stream, and model."""
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesResponse, AnthropicStreamEvent
    from vllm.entrypoints.openai.chat_completion import protocol as chat
    from vllm.entrypoints.openai.completion import protocol as completion
    from vllm.entrypoints.openai.responses import protocol as responses

    events = [("responses", True, event) for event in get_args(responses.StreamingResponsesResponse)]
    return [
        ("chat", False, chat.ChatCompletionResponse),
        ("chat", True, chat.ChatCompletionStreamResponse),
        ("completions", False, completion.CompletionResponse),
        ("completions", True, completion.CompletionStreamResponse),
        ("responses", False, responses.ResponsesResponse),
        ("messages", False, AnthropicMessagesResponse),
        ("messages", True, AnthropicStreamEvent),
        *events,
    ]


def test_text_in_every_response_field_is_judged_or_removed() -> None:
    judged = removed = 0
    for api, is_event, model in response_models():
        read = read_event if is_event else read_response
        for place, payload in samples(model, MARKER, TOKENS):
            kept, texts = read(api, payload)
            text = json.dumps(kept)
            if any(MARKER in text for _, text in texts):
                judged += 1
            elif MARKER not in text and str(TOKENS[0]) not in text:
                removed += 1
            else:
                names = re.sub(r"[\[{][a-z]*[\]}]", "", place).split(".")[1:]
                repeated = api == "responses" and not REPEATED.isdisjoint(names[:2])
                counts = not {"usage", "metrics"}.isdisjoint(names[:2])
                assert names[-1] in LABELS or repeated or counts, f"{model.__name__}{place}"
    assert judged > 100
    assert removed > 100


def test_every_response_field_is_known() -> None:
    """At the top and in each choice, item and block: a field that a new vLLM adds is not dropped unnoticed."""
    for api, is_event, model in response_models():
        known = EVENTS_BY_API[api] if is_event else RESPONSES_BY_API[api]
        unknown = set(fields_of(model)) - set(known) - DROPPED
        assert unknown == set(), f"{model.__name__}: {unknown}"
        for name, rule in known.items():
            inner = fields_of(model).get(name)
            if isinstance(rule, dict) and inner is not None:
                for kind in _models_in(inner):
                    if kind.__module__.startswith("openai.types") and kind.__name__ not in MADE_BY_VLLM:
                        continue
                    assert set(fields_of(kind)) - set(rule) - DROPPED == set(), f"{model.__name__}.{name}: {kind}"


def _models_in(hint: Any) -> list[Any]:
    return [hint] if fields_of(hint) else [kind for arg in get_args(hint) for kind in _models_in(arg)]


# --- arguments


def test_names_of_arguments_that_begin_others_are_known() -> None:
    """vLLM takes the beginning of a name for the argument, and the compliance rules report that."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    names = {option[2:].replace("-", "_") for option in parser._option_string_actions if option.startswith("--")}
    assert {
        name for name in names if any(full.startswith(name) and full != name for full in JUDGED_ARGUMENTS)
    } == WHOLE_NAMES


# --- routes


@pytest.mark.parametrize("dev_mode", ["0", "1"])
def test_every_route_of_vllm_is_known(dev_mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A route of a text model that is not listed would be 404; one that is listed in vain would be 403."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.api_server import build_app
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", dev_mode)
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", "demo"])
    served = {(method, route.path) for route in build_app(args, ("generate",)).routes
              for method in getattr(route, "methods", None) or ()}  # fmt: skip
    unknown = {path for method, path in served if Routes().find(method, path) is None}
    assert unknown == set()
    if dev_mode == "1":
        paths = {path for _, path in served}
        optional = {"/start_profile", "/stop_profile", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
        assert (WITHOUT_GENERATED_TEXT | UNGUARDED_ONLY) - paths == optional
