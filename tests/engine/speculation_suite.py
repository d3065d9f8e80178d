"""Speculation on the demo model, on the CPU release: `make test-speculation`.

The same 1,008 greedy requests (SPECULATION_REQUESTS) run with and without n-gram and MTP drafts, with and without
prefix caching, in a pool that preempts. An engine that is wrong in the first 48 is not asked for the others. What the
engine release is known to do is in `cpu_speculation` of catalog/engines.yaml; the suite fails when the engine does
anything else, also when it has become right. Another release than the installed one: SPECULATION_ENGINE=0.30.0, which
`make engine` has unpacked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from hybridserve.catalog.engines import engine_table
from hybridserve.planning.resolve import PlanOptions, engine_args, plan_settings
from hybridserve.planning.serialize import report
from hybridserve.settings import load

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = json.loads((ROOT / "tests" / "data" / "demo_prompts.json").read_text())["prompts"]
sys.path.insert(0, str(ROOT / "scripts"))
from engine_release.release import fetch  # noqa: E402

VERSION = os.environ.get("SPECULATION_ENGINE", "0.29.0")
TABLE = engine_table(VERSION)[0]
SCRIPT = Path(__file__).with_name("speculation_run.py")
FEW = 48
REQUESTS, OUTPUT = int(os.environ.get("SPECULATION_REQUESTS", "1008")), 32
POOL_BYTES = 40 * 196_608
DRAFTS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "ngram": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3},
    "mtp": {"method": "mtp", "num_speculative_tokens": 2},
}
SERVER = ("served_model_name", "reasoning_parser", "tool_call_parser", "enable_auto_tool_choice", "host", "port")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a trained MTP layer; SPECULATION_MODEL names one that demo/mtp.py has written."""
    if written := os.environ.get("SPECULATION_MODEL"):
        return Path(written)
    folder = tmp_path_factory.mktemp("speculation") / "demo"
    subprocess.run([sys.executable, str(ROOT / "demo" / "mtp.py"), "--out", str(folder)], check=True, timeout=1500)
    return folder


@pytest.fixture(scope="module")
def prompts(model: Path) -> list[list[int]]:
    """Chats of all lengths, and chats padded so that their replies grow into another block."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    filler = tokenizer.encode(
        "The cache is paged. Each block belongs to one group. A long prompt is read in chunks. " * 60
    )
    chats = []
    for entry in PROMPTS:
        switch = {} if entry["enable_thinking"] is None else {"enable_thinking": entry["enable_thinking"]}
        text = tokenizer.apply_chat_template(entry["messages"], tokenize=False, add_generation_prompt=True, **switch)
        chats.append(tokenizer.encode(text))
    plain, long = ([ids for ids in chats if len(ids) < 300], [ids for ids in chats if len(ids) > 400])
    padded = [[*ids[:1], *filler[: 376 - len(ids)], *ids[1:]] for ids in plain]
    short = [ids for both in zip(plain, padded, strict=True) for ids in both]
    # Every eighth request has a long prompt, the same for a while, so that its blocks are found again.
    return [long[at // 80 % len(long)] if at % 8 == 0 else short[at % len(short)] for at in range(REQUESTS)]


class Case:
    """One engine: its plan, and its result."""

    def __init__(self, model: Path, draft: str, cached: bool, prompts: list[list[int]], folder: Path) -> None:
        assign = [
            f"engine.version={VERSION}",
            f"model.id={json.dumps(str(model))}",
            f"engine.enable_prefix_caching={json.dumps(cached)}",
            f"engine.speculative_config={json.dumps(DRAFTS[draft])}",
            f"engine.kv_cache_memory_bytes={POOL_BYTES}",
            "engine.max_num_seqs=16",
        ]
        settings = load(None, assign).settings
        planned = plan_settings(settings, PlanOptions())
        self.plan = report(planned)
        args = {name: value for name, value in engine_args(settings, planned).items() if name not in SERVER}
        if not (folder / "result.json").exists():
            self._run({"args": args, "prompts": prompts, "output": OUTPUT}, folder)
        result = json.loads((folder / "result.json").read_text())
        self.engine, self.counters = result["engine"], result["counters"]
        self.tokens, self.error = result["tokens"], result["error"]

    @staticmethod
    def _run(case: dict[str, Any], folder: Path) -> None:
        """One engine in a process of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "case.json").write_text(json.dumps(case))
        command = [sys.executable, str(SCRIPT), str(folder / "case.json"), str(folder / "result.json")]
        environment = fetch(VERSION, ROOT / ".cache" / "engines").environment
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, env=environment)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def cases(
    model: Path, prompts: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, bool], Case]:
    """Every engine; SPECULATION_RESULTS names a folder whose results are used again."""
    results = Path(os.environ.get("SPECULATION_RESULTS") or tmp_path_factory.mktemp("results"))
    made = {}
    for draft in DRAFTS:
        for cached in (False, True):
            folder = results / f"{draft}-{'cached' if cached else 'uncached'}"
            if draft != "none":
                case = made[draft, cached] = Case(model, draft, cached, prompts[:FEW], folder / "few")
                if case.error or differing(case, made["none", False]):
                    continue
            made[draft, cached] = Case(model, draft, cached, prompts, folder)
    return made


def differing(case: Case, reference: Case) -> int:
    """Requests whose tokens are not the reference's."""
    return sum(ours != theirs for ours, theirs in zip(case.tokens, reference.tokens, strict=False))


def test_without_drafts_caching_and_preemption_change_no_token(cases: dict[tuple[str, bool], Case]) -> None:
    cached, plain = cases["none", True], cases["none", False]
    assert len(plain.tokens) == REQUESTS
    assert len({tuple(tokens) for tokens in plain.tokens}) > 20
    if cached.error:
        assert "cpu-mamba2-align" in {fault.id for fault in TABLE.known_faults}, cached.error
        return
    assert cached.counters["vllm:prefix_cache_hits"] > 0
    assert cached.counters["vllm:num_preemptions"] > 0
    assert plain.counters["vllm:num_preemptions"] > 0
    assert differing(cached, plain) == 0


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("draft", ["ngram", "mtp"])
def test_drafts_do_what_the_catalog_says(cases: dict[tuple[str, bool], Case], draft: str, cached: bool) -> None:
    case, known = cases[draft, cached], TABLE.cpu_speculation
    if case.error is None:
        wrong = differing(case, cases["none", False])
        found = f"{wrong} of {len(case.tokens)} requests with other tokens"
        outcome = "changes tokens" if wrong else "equal"
    else:
        found, outcome = case.error, "stops"
    drafted, accepted = (case.counters.get(f"vllm:spec_decode_num_{name}_tokens", 0) for name in ("draft", "accepted"))
    preempted = case.counters["vllm:num_preemptions"]
    print(
        f"{draft}, {'cached' if cached else 'uncached'}: {found}; {accepted} of {drafted} drafts, {preempted} preempted"
    )
    if outcome == "equal":
        assert drafted > 0, "no draft was made, so equal tokens show nothing"
    assert known is not None, f"{outcome}: {found}"
    assert outcome == (known.cached if cached else known.uncached), found


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("draft", list(DRAFTS))
def test_plan_equals_engine(cases: dict[tuple[str, bool], Case], draft: str, cached: bool) -> None:
    case = cases[draft, cached]
    cache, engine = case.plan["cache"], case.engine
    assert sorted(group["kind"] for group in cache["groups"]) == sorted(kind for kind, _ in engine["groups"])
    assert case.plan["capacity"]["num_blocks"][1] == engine["num_blocks"]
    states = sum(kind == "state" for kind, _ in engine["groups"])
    assert cache["state_blocks_budgeted"] == states * engine["max_state_bytes"] // engine["page_bytes"]
    assert engine["draft_blocks"] == (DRAFTS[draft] or {}).get("num_speculative_tokens", 0)
    print(case.plan["memory"]["weights"], engine["weights"])
    assert case.plan["memory"]["weights"] == engine["weights"]
