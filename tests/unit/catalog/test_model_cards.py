"""Model cards: schema, sources, and plans."""

from __future__ import annotations

import ast
import importlib.util
import json
from datetime import date
from pathlib import Path

import pytest

from hybridserve.catalog import models
from hybridserve.catalog.models import load_card, model_ids, resolve_model
from hybridserve.errors import CatalogError
from hybridserve.planning.cache.layout import plan_cache
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.memory.weights import count_parameters
from hybridserve.planning.models import read_architecture
from hybridserve.planning.serialize import parser_notes
from hybridserve.settings import Settings

NEEDED = {
    "demo",
    "falcon-h1-0.5b-instruct",
    "granite-4.0-h-tiny",
    "nemotron-3-nano-30b-a3b",
    "nemotron-3-nano-30b-a3b-base",
    "nemotron-3-nano-30b-a3b-fp8",
    "nemotron-3-nano-30b-a3b-nvfp4",
    "nemotron-3-nano-4b",
    "nemotron-3-nano-4b-fp8",
    "nemotron-3-super-120b-a12b",
    "nemotron-3-super-120b-a12b-fp8",
    "nemotron-3-super-120b-a12b-nvfp4",
    "nemotron-3-ultra-550b-a55b",
    "nemotron-nano-12b-v2",
    "nemotron-nano-12b-v2-base",
    "nemotron-nano-12b-v2-vl",
    "nemotron-nano-12b-v2-vl-fp8",
    "nemotron-nano-12b-v2-vl-nvfp4-qad",
    "nemotron-nano-9b-v2",
    "nemotron-nano-9b-v2-base",
    "nemotron-nano-9b-v2-fp8",
    "nemotron-nano-9b-v2-nvfp4",
    "qwen3-8b",
}
PUBLISHED = {
    "nemotron-nano-9b-v2": 8.89e9,
    "nemotron-nano-12b-v2": 12.31e9,
    "nemotron-3-nano-4b": 3_973_556_832,
    "nemotron-3-nano-30b-a3b": 31.6e9,
    "nemotron-3-super-120b-a12b": 120.6e9,
    "nemotron-3-ultra-550b-a55b": 550e9,
    "qwen3-8b": 8_190_735_360,
    "granite-4.0-h-tiny": 7e9,
    "granite-4.0-h-small": 32e9,
    "falcon-h1-0.5b-instruct": 0.5e9,
    "falcon-h1-7b-instruct": 7.59e9,
    "lfm2-8b-a1b": 8.34e9,
    "jamba-1.5-mini": 52e9,
    "falcon-mamba-7b": 7e9,
    "gpt-oss-20b": 20.91e9,
    "gpt-oss-120b": 116.83e9,
    "gemma-4-26b-a4b": 26e9,
    "gemma-3-12b": 12e9,
    # The language model's tensors in the header of the published file.
    "minicpm-v-4.6": 752_161_600,
    "mamba-2.8b": 2.77e9,
    "qwen3.5-27b": 27e9,
    "qwen3.5-35b-a3b": 35e9,
    "qwen3.5-122b-a10b": 122e9,
}


def test_supported_models_have_cards():
    assert set(model_ids()) >= NEEDED


@pytest.mark.parametrize("name", model_ids())
def test_card_facts_have_source_and_date(name):
    card = load_card(name)
    for facts in (card.config, card.weights, card.serving):
        assert facts.source
        assert date(2025, 1, 1) < facts.read <= date(2027, 1, 1)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_architecture_has_the_published_parameter_count(name):
    counted = count_parameters(read_architecture(resolve_model(name).config))
    published = PUBLISHED[name]
    rounded_to_a_billion_or_less = published % 1e9 == 0 or published < 1e9
    assert counted == pytest.approx(published, rel=0.05 if rounded_to_a_billion_or_less else 0.005)
    stated = load_card(name).weights.parameters
    assert stated is None or stated == counted


@pytest.mark.parametrize("name", model_ids())
def test_every_card_can_be_planned(name):
    plan = plan_cache(read_architecture(resolve_model(name).config), CacheRequest(kv_bytes=40 << 30))
    assert plan.n_safe(plan.max_model_len) >= 1


def test_repository_name_is_a_case_insensitive_alias():
    assert resolve_model("nvidia/NVIDIA-Nemotron-Nano-9B-v2").id == "nemotron-nano-9b-v2"
    assert resolve_model("NVIDIA/nvidia-nemotron-nano-9b-V2").id == "nemotron-nano-9b-v2"


def test_folder_and_file_are_resolved(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(resolve_model("qwen3-8b").config))
    for name in (str(folder), str(folder / "config.json")):
        model = resolve_model(name)
        assert (model.id, model.card, model.folder) == ("my-model", None, folder)
        assert read_architecture(model.config).attention_layers == 36


def test_demo_model_is_read_from_its_folder(tmp_path, monkeypatch):
    (tmp_path / "demo_model").mkdir()
    (tmp_path / "demo_model" / "config.json").write_text(json.dumps({"architectures": ["X"]}))
    monkeypatch.setattr(models, "_PACKAGE", tmp_path)
    model = resolve_model("demo")
    assert model.folder == tmp_path / "demo_model"
    assert model.config == {"architectures": ["X"]}


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("nemotron-nano-9b", "did you mean nemotron-nano-9b-v2"),
        ("org/other", "hf download org/other config.json --local-dir other, then plan ./other"),
        ("ai21labs/AI21-Jamba-Mini-1.7", "then plan ./AI21-Jamba-Mini-1.7; nearest names in the catalog: jamba"),
        ("./nowhere", "give a folder with config.json; hybridserve plan --list"),
    ],
)
def test_unknown_model_error_says_how_to_plan_it(name, fix):
    with pytest.raises(CatalogError) as caught:
        resolve_model(name)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("content", "what"), [(None, "no such file"), ("{", "not valid JSON"), ("[]", "not a JSON object")]
)
def test_invalid_config_json_error_names_the_file(tmp_path, content, what):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CatalogError) as caught:
        resolve_model(str(tmp_path))
    assert caught.value.where == str(tmp_path / "config.json")
    assert what in caught.value.what


@pytest.mark.parametrize(
    ("change", "what"),
    [("surprise: 1", "surprise"), ("revision: main", "revision"), ("id: other", "its id is other")],
)
def test_invalid_card_is_an_error(tmp_path, monkeypatch, change, what):
    field = change.partition(":")[0]
    lines = (models._CARDS / "qwen3-8b.yaml").read_text().splitlines()
    text = "\n".join([line for line in lines if not line.startswith(f"{field}:")] + [change])
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(models, "_CARDS", tmp_path)
    with pytest.raises(CatalogError) as caught:
        load_card("mine")
    assert "catalog/models/mine.yaml" in caught.value.where
    assert what in str(caught.value)


CHAT = [name for name in model_ids() if load_card(name).serving.kind != "base"]


@pytest.mark.parametrize("name", CHAT)
def test_a_chat_model_has_a_parser_of_tool_calls_or_the_plan_says_so(name):
    card, engine = load_card(name), Settings().engine
    notes = "\n".join(parser_notes(card, engine))
    assert ("tool calls: " in notes) == (card.serving.tool_call_parser is None)
    reasons = card.serving.reasoning_switch in ("template", "system")
    assert ("no parser of vLLM is known for this model, so reasoning" in notes) == (
        reasons and card.serving.reasoning_parser is None
    )
    assert "parsers were not read" not in card.serving.source
    named = parser_notes(card, engine.model_copy(update={"tool_call_parser": "mine", "reasoning_parser": "mine"}))
    assert not any("no parser of vLLM is known" in note for note in named)


def test_parsers_of_the_cards_are_registered_in_vllm():
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    for kind, folder in (("tool_call_parser", "tool_parsers"), ("reasoning_parser", "reasoning")):
        # Importing vLLM takes seconds; the registry is a literal mapping.
        tree = ast.parse((Path(spec.origin).parent / folder / "__init__.py").read_text(encoding="utf-8"))
        tables = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
        registered = {key for table in tables for key in ast.literal_eval(table)}
        named = {getattr(load_card(name).serving, kind) for name in CHAT} - {None}
        assert named
        assert named <= registered


def test_a_base_model_needs_no_parser():
    assert parser_notes(load_card("falcon-mamba-7b"), Settings().engine) == []
