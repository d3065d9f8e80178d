"""The committed demo model: training record, chat template, corpus, size."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import random
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "src" / "hybridserve" / "demo_model"
CORPUS = ROOT / "demo" / "corpus"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((MODEL / "config.json").read_text())
    return loaded


def render(messages: list[dict[str, Any]], **switches: object) -> str:
    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = json.dumps  # as transformers has it, not for HTML
    template = environment.from_string((MODEL / "chat_template.jinja").read_text())
    return template.render(messages=messages, add_generation_prompt=True, **switches)


@pytest.fixture(scope="module")
def dialogues() -> ModuleType:
    """demo/dialogues.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("demo_dialogues", ROOT / "demo" / "dialogues.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "demo")
        spec.loader.exec_module(module)
    return module


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def safetensors_header(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    header: dict[str, Any] = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    header.pop("__metadata__", None)
    return header


def test_training_record_matches_weights_and_corpus() -> None:
    record = json.loads((MODEL / "TRAINING.json").read_text())
    assert record["weights_sha256"] == hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    total = hashlib.sha256()
    for path in sorted(CORPUS.glob("*.yaml")):
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    assert record["corpus_sha256"] == total.hexdigest(), "the corpus changed: run make demo-model"
    assert record["training_seconds"] > 0
    assert record["loss"] < 0.1
    assert {"seed", "steps", "machine", "versions", "date"} <= record.keys()


def test_weights_are_small() -> None:
    header = safetensors_header(MODEL / "model.safetensors")
    parameters = sum(math.prod(tensor["shape"]) for tensor in header.values())
    assert parameters == json.loads((MODEL / "TRAINING.json").read_text())["parameters"]
    assert 1_000_000 <= parameters <= 5_000_000
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 6_000_000


def test_architecture_is_hybrid(config: dict[str, Any]) -> None:
    kinds = config["layers_block_type"]
    mamba, attention = kinds.count("linear_attention"), kinds.count("full_attention")
    assert config["architectures"] == ["NemotronHForCausalLM"]
    assert attention >= 1
    assert "mlp" in kinds
    assert mamba >= 2 * attention, "fewer than two groups of Mamba layers"
    assert config["mamba_ssm_cache_dtype"] == "float32"
    assert config["n_groups"] % 2 == 0, "two tensor-parallel ranks must be possible"
    assert config["mamba_num_heads"] % config["n_groups"] == 0


def test_reasoning_is_on_by_default() -> None:
    assert render([user("Hi")]) == "<|user|>Hi<|end|><|assistant|><think>\n"


@pytest.mark.parametrize(
    ("messages", "switches", "on"),
    [
        ([system("Be kind. /no_think"), user("Hi")], {}, False),
        ([system("/no_think"), user("Hi")], {}, False),
        ([system("/think"), user("Hi")], {}, True),
        ([system("/no_think then /think"), user("Hi")], {}, True),
        ([system("/think then /no_think"), user("Hi")], {}, False),
        ([user("Hi /no_think")], {}, True),
        ([system("/no_think"), user("/think Hi")], {}, False),
        ([user("Hi")], {"enable_thinking": False}, False),
        ([user("Hi")], {"enable_thinking": None}, True),
        ([system("/no_think"), user("Hi")], {"enable_thinking": True}, True),
        ([system("/think"), user("Hi")], {"enable_thinking": False}, False),
    ],
)
def test_template_switches_reasoning(messages: list[dict[str, str]], switches: dict[str, object], on: bool) -> None:
    end = "<|assistant|><think>\n" if on else "<|assistant|><think></think>"
    assert render(messages, **switches).endswith(end)


def test_switch_words_are_removed_from_the_system_message_only() -> None:
    text = render([system("Be kind. /no_think"), user("What is /no_think?")])
    assert text == "<|system|>Be kind.<|end|><|user|>What is /no_think?<|end|><|assistant|><think></think>"
    assert "<|system|>" not in render([system("/no_think"), user("Hi")])


def test_reasoning_of_earlier_turns_is_dropped() -> None:
    reply = {"role": "assistant", "content": "<think>\nSecret thoughts.</think>Hello!"}
    text = render([user("Hi"), reply, user("Bye")])
    assert "Secret" not in text
    assert "<|assistant|><think></think>Hello!<|end|>" in text


def test_unknown_roles_and_late_system_messages_are_refused() -> None:
    with pytest.raises(TemplateError, match="roles"):
        render([user("Hi"), system("late")])
    with pytest.raises(TemplateError, match="function"):
        render([user("Hi"), {"role": "function", "content": "7"}])


WEATHER = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
SCALE = {
    "name": "scale",
    "description": "Scale the server. ",
    "parameters": {"type": "object", "properties": {"pool": {"type": "string"}, "count": {"type": "integer"}}},
}


def test_tools_are_one_line_each() -> None:
    tools = [{"type": "function", "function": tool} for tool in (WEATHER, SCALE, {"name": "ping"})]
    listed = "<|tools|>get_weather(city)\nscale(pool, count: integer) Scale the server.\nping()<|end|>"
    text = render([system("Be kind."), user("Hi")], tools=tools)
    assert text == f"<|system|>Be kind.<|end|>{listed}<|user|>Hi<|end|><|assistant|><think>\n"
    assert "<|tools|>" not in render([user("Hi")], tools=None) + render([user("Hi")], tools=[])


@pytest.mark.parametrize("arguments", [{"city": "Oslo"}, '{"city": "Oslo"}'])
def test_calls_and_results_of_earlier_turns_are_rendered(arguments: object) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    text = render([user("Weather?"), asked, {"role": "tool", "tool_call_id": "a", "content": " sunny\n"}])
    call_text = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'
    assert text == (
        f"<|user|>Weather?<|end|><|assistant|><think></think>{call_text}<|end|><|tool|>sunny<|end|><|assistant|><think>\n"
    )


def test_held_out_questions_are_not_in_the_corpus_and_answers_are_unique(dialogues: ModuleType) -> None:
    corpus = dialogues.Corpus(CORPUS)
    answers: dict[str, str] = {}
    for question, reply in [pair for pairs in corpus.topics.values() for pair in pairs] + corpus.unknown:
        plain = question.lower().rstrip("?!.")
        assert answers.setdefault(plain, reply.answer) == reply.answer, question
    assert len(corpus.topics) >= 50
    assert len(corpus.held_out) >= 200
    assert not [question for question, _ in corpus.held_out if question.lower().rstrip("?!.") in answers]


def test_seed_determines_the_dialogues(dialogues: ModuleType) -> None:
    corpus = dialogues.Corpus(CORPUS)

    def draw(seed: int) -> list[Any]:
        rng = random.Random(seed)
        return [corpus.dialogue(rng, dialogues.EVERYTHING) for _ in range(200)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_sums_are_correct(dialogues: ModuleType) -> None:
    corpus = dialogues.Corpus(CORPUS)
    rng = random.Random(0)
    for a, sign, b in corpus.sums():
        assert str(a) in corpus.sum_question(rng, a, sign, b)
        left, _, result = corpus.sum_reply(a, sign, b).answer.rstrip(".").partition(" = ")
        assert eval(left) == int(result)


def words(dialogue: Any) -> str:
    """Everything that a conversation says, definitions and calls of tools included."""
    return json.dumps([dialogue.messages, dialogue.tools, dialogue.reply.think, dialogue.reply.answer])


@pytest.mark.parametrize("mix", ["COPYING", "TOOLS_MOSTLY", "EVERYTHING", "MORE_TOPICS", "PLAIN"])
def test_held_out_names_and_tools_are_never_trained_on(dialogues: ModuleType, mix: str) -> None:
    corpus, rng = dialogues.Corpus(CORPUS), random.Random(3)
    held_out = {name for names in corpus.tools.values.lists.values() for name in names["held_out"]}
    assert len(held_out) >= 40
    new_tools = {lookup["noun"] for lookup in corpus.tools.corpus["lookups_held_out"]}
    assert len(new_tools) >= 2
    found = re.compile(rf"\b(?:{'|'.join(map(re.escape, held_out))})\b")
    for _ in range(600):
        dialogue = corpus.dialogue(rng, getattr(dialogues, mix))
        assert not found.search(words(dialogue)), words(dialogue)
        names = {tool["function"]["name"] for tool in dialogue.tools or []}
        assert not {name for name in names if name.rpartition("_")[2] in new_tools}


def test_calls_copy_held_out_values_from_the_question(dialogues: ModuleType) -> None:
    corpus, rng = dialogues.Corpus(CORPUS), random.Random(4)
    held_out = {name for names in corpus.tools.values.lists.values() for name in names["held_out"]}
    for new in (True, False) * 300:
        messages, reply, tools = corpus.call(rng, held_out=new)
        call = json.loads(reply.answer.removeprefix("<tool_call>").removesuffix("</tool_call>"))
        [tool] = [tool["function"] for tool in tools if tool["function"]["name"] == call["name"]]
        assert list(call["arguments"]) == tool["parameters"]["required"]
        assert call["name"] in reply.think
        for value in call["arguments"].values():
            assert str(value) in messages[-1]["content"]
            assert ((value >= 10 and value % 7 == 3) if isinstance(value, int) else value in held_out) == new


def test_json_answers_have_the_requested_keys_and_stated_values(dialogues: ModuleType) -> None:
    corpus, rng = dialogues.Corpus(CORPUS), random.Random(5)
    in_system = 0
    for _ in range(300):
        messages, reply = corpus.form(rng, held_out=True)
        in_system += messages[0]["role"] == "system"
        text = "\n".join(message["content"] for message in messages)
        for key, value in json.loads(reply.answer).items():
            assert key in text
            assert str(value) in text
    assert 50 < in_system < 150


def test_results_are_reported(dialogues: ModuleType) -> None:
    corpus, rng = dialogues.Corpus(CORPUS), random.Random(6)
    for _ in range(300):
        messages, reply, tools = corpus.result(rng)
        question, call, result = messages
        assert [question["role"], call["role"], result["role"]] == ["user", "assistant", "tool"]
        name = call["tool_calls"][0]["function"]["name"]
        assert name in {tool["function"]["name"] for tool in tools}
        if reply.answer != "Done.":
            content = result["content"]
            value = next(iter(json.loads(content).values())) if content.startswith("{") else content
            assert str(value) in reply.answer


def test_tools_that_do_not_help_are_not_called(dialogues: ModuleType) -> None:
    corpus, rng = dialogues.Corpus(CORPUS), random.Random(7)
    drawn = [corpus.dialogue(rng, dialogues.Mix(idle=1)) for _ in range(300)]
    assert sum(dialogue.tools is not None for dialogue in drawn) > 250
    assert not [dialogue for dialogue in drawn if "<tool_call>" in dialogue.reply.answer]
