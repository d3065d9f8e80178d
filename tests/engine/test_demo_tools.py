"""Tool calls as demo/train.py teaches them, through the demo model's tokenizer and vLLM's parser."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import AutoTokenizer
from vllm.tool_parsers import ToolParserManager

from hybridserve.catalog.models import load_card

pytestmark = pytest.mark.engine

MODEL = Path(__file__).parents[2] / "src" / "hybridserve" / "demo_model"
ARGUMENTS = {"city": "Tallinn", "days": 17}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


def test_a_call_passes_the_parser_of_the_catalog(tokenizer: Any) -> None:
    call = f'<tool_call>{{"name": "get_weather", "arguments": {json.dumps(ARGUMENTS)}}}</tool_call><|end|>'
    text = tokenizer.decode(tokenizer.encode(call), skip_special_tokens=True)
    parser = ToolParserManager.get_tool_parser(load_card("demo").serving.tool_call_parser)
    found = parser(tokenizer).extract_tool_calls(text, cast("Any", SimpleNamespace()))
    assert [(each.function.name, json.loads(each.function.arguments)) for each in found.tool_calls] == [
        ("get_weather", ARGUMENTS)
    ]
    assert not found.content


@pytest.mark.parametrize("name", ["Tallinn", "San Jose", "Helena", "H200", "Kettering"])
def test_a_name_is_the_same_tokens_in_a_question_and_in_a_call(tokenizer: Any, name: str) -> None:
    tokens = tokenizer.tokenize(name)
    for text in (f"What is the weather in {name}?", f'{{"city": "{name}"}}', f"{name}, 17"):
        line = tokenizer.tokenize(text)
        assert any(line[at : at + len(tokens)] == tokens for at in range(len(line))), line
