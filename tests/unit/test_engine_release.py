"""Steps of `make engine` that read source and write text; the release's own code runs only there."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from engine_release import source  # noqa: E402
from engine_release.cache_server import CacheTest  # noqa: E402
from engine_release.differential import Answers, _neighbors  # noqa: E402
from engine_release.entry import ABOUT, COMPARED, NOT_MEASURED, changes, entry_text, ray_support  # noqa: E402
from engine_release.report import Findings, report, verdict  # noqa: E402

from hybridserve.catalog import engines  # noqa: E402
from hybridserve.catalog.engines import engine_table  # noqa: E402

BASE, NEXT = (engine_table(version)[0] for version in ("0.32.0", "0.33.0"))
CONNECTORS = "vllm/distributed/kv_transfer/kv_connector"
FILES = {
    "vllm/__init__.py": "",
    "vllm/entrypoints/cli_args.py": "class FrontendArgs: ...\nif True:\n    PARSER = 1\n",
    "vllm/lazy.py": "NAMES = {'SamplingParams': '.x'}\ndef __getattr__(name): ...\n",
    "vllm/metrics.py": "A = 'vllm:requests_total'\nB = 'vllm::custom_op'\n",
    "vllm/engine/arg_utils.py": "M = ('--old-flag is deprecated. '\n 'It has no effect: it follows another.')",
    f"{CONNECTORS}/base.py": "class SupportsHMA: ...\nclass Nixl(SupportsHMA): ...\nN = Nixl\n",
    f"{CONNECTORS}/factory.py": (
        'F.register_connector(\n    \'x\')\nF.register_connector(\n    "NixlConnector",\n    "vllm.a",\n    "N",\n)\n'
        'F.register_connector("LMCacheConnectorV1", "vllm.b", "LMCache")\n'
    ),
    "ray/llm/served.py": "from vllm.entrypoints.cli_args import FrontendArgs, Gone\nimport ray.llm.deeper\n",
    "ray/llm/deeper.py": "try:\n    from vllm import missing\nexcept ImportError:\n    missing = None\n",
    "ray/llm/other.py": "def f():\n    from vllm.nowhere import thing\nfrom vllm.lazy import SamplingParams\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_broken_imports_are_found_with_what_they_stop(folder: Path) -> None:
    modules = source.modules_of(folder, "ray")
    broken = source.broken_imports(folder, modules)
    assert {(item.module, item.name, item.loads) for item in broken} == {
        ("ray.llm.served", "vllm.entrypoints.cli_args.Gone", True),
        ("ray.llm.deeper", "vllm.missing", False),
        ("ray.llm.other", "vllm.nowhere.thing", False),
    }
    served = source.reachable(["ray.llm.served"], modules)
    assert served == {"ray.llm.served", "ray.llm.deeper"}
    support = ray_support("2.60.0", [(item, item.module in served) for item in broken])
    assert not support.works
    assert support.broken == ("ray.llm.deeper", "ray.llm.other", "ray.llm.served")


def test_source_names_metrics_deprecations_and_connectors(folder: Path) -> None:
    assert source.metrics(folder) == {"vllm:requests_total"}
    assert source.deprecations(folder) == {
        "--old-flag": "--old-flag is deprecated. It has no effect: it follows another."
    }
    assert source.hybrid_connectors(folder) == {"NixlConnector"}


def test_written_entry_reads_back_as_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "engines.yaml"
    text = Path(engines.__file__).with_name("engines.yaml").read_text()
    file.write_text(text.partition('\n  - version: "0.33.0"')[0] + entry_text(NEXT, BASE))
    assert set(yaml.safe_load(file.read_text())["engines"][-1]) > {"version", "based_on", "ray"}
    monkeypatch.setattr(engines, "_FILE", file)
    engines.engine_tables.cache_clear()
    try:
        assert changes(NEXT, engines.engine_tables()[-1]) == {}
    finally:
        engines.engine_tables.cache_clear()


def test_every_field_of_an_entry_is_measured_fitted_compared_or_named_as_neither() -> None:
    tables = engines.engine_tables()
    fitted = {name for table in tables for other in _neighbors(table) for name in changes(table, other)}
    read_off = read_off_fields()
    groups = (set(ABOUT), fitted, read_off, set(COMPARED), set(NOT_MEASURED))
    assert set().union(*groups) == set(engines.EngineTable.model_fields)
    assert not (set(COMPARED) | set(NOT_MEASURED)) & (fitted | read_off)


def read_off_fields() -> set[str]:
    """Keys of the dictionaries that `measured_table` and the probe write."""
    keys: set[str] = set()
    for name, function in (("entry", "measured_table"), ("probe", "constants")):
        tree = ast.parse((ROOT / "scripts" / "engine_release" / f"{name}.py").read_text())
        (body,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
        for node in ast.walk(body):
            if isinstance(node, ast.Dict):
                keys |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    return keys & set(engines.EngineTable.model_fields) - set(ABOUT)


def findings(table: engines.EngineTable, **changed: object) -> Findings:
    nothing: tuple[set[str], set[str]] = (set(), set())
    values = {
        "measured": table,
        "base": BASE,
        "present": None,
        "answers": Answers(1, 0, 0, (({}, {"refused": "x"}),)),
        "differing": (),
        "cpu_build": True,
        "cache": CacheTest({800: (0, 768, 768)}, alive=True),
        "hooks": (),
        "ray": (),
        "flags": (set(), {"--new"}),
        "environment": nothing,
        "metrics": nothing,
    }
    return Findings(**values | changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "word", "says"),
    [
        (findings(BASE), "use", "prefix caching off"),
        (findings(NEXT), "hold", "does not import it"),
        (findings(BASE, differing=("case: tokens: planner 1, vLLM 2",)), "hold", "differ on 1 fields"),
        (findings(BASE, hooks=(source.BrokenImport("hybridserve.x", 1, "vllm.y", True),)), "hold", "our own imports"),
    ],
)
def test_verdict_follows_from_the_findings(found: Findings, word: str, says: str) -> None:
    decision = verdict(found)
    assert decision.word == word
    assert says in decision.line
    assert f"**Verdict: {word}.**" in report(found)


def test_report_names_what_was_found() -> None:
    text = report(findings(BASE, cache=CacheTest({800: (0, 768, 768), 1738: ()}, alive=False)))
    assert "flags added: `--new`" in text
    assert "| 800 | 0, 768, 768 |" in text
    assert "The engine died" in text
