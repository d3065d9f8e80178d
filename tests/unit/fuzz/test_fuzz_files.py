"""Corrupted user files: exit code 0, 1 or 2 with a message, never a traceback or a hang.

A few hundred in `make test`, ten thousand settings files in `make fuzz` (FUZZ_FILES). What was found stays in
`findings/`, one file for each, named by the command that it broke.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridserve.catalog.models import resolve_model
from hybridserve.cli import main
from hybridserve.errors import HybridServeError
from hybridserve.gateway.auth.api_keys import key_line, new_key, parse_keys
from hybridserve.guards.patterns import PatternGuard
from hybridserve.loadtest.scenario import built_in, load_scenario, parse_scenario
from hybridserve.settings import Settings
from hybridserve.simulator.service_times import BUILT_IN, parse_service_times
from hybridserve.simulator.traffic import parse_trace
from support.mutate import mutate_text, mutate_tree

pytestmark = pytest.mark.timeout(7200)

FILES = int(os.environ.get("FUZZ_FILES", "200"))
SEED = int(os.environ.get("FUZZ_SEED", "11"))
LONGEST_S = 20
ROOT = Path(__file__).resolve().parents[3]
FINDINGS = Path(__file__).parent / "findings"

COMMANDS: dict[str, list[str]] = {
    "config": ["config", "show", "--sources", "-c"],
    "check": ["check", "--date", "2026-11-23", "-c"],
    "check-json": ["check", "--date", "2026-11-23", "--all", "--json", "-c"],
    "plan": ["plan", "-c"],
    "render": ["render", "vllm", "-c"],
    "render-ray": ["render", "vllm", "--format", "llmconfig", "-c"],
    "helm": ["render", "helm", "-c"],
    "alerts": ["alerts", "list", "-c"],
}


class Hang(BaseException):
    """It took too long. Not an Exception, so that nobody swallows it."""


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(argv: list[str]) -> tuple[int, str]:
    """Exit code and all that was said. Anything but an exit is the finding itself."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), within(LONGEST_S):
        try:
            main(argv)
        except SystemExit as stopped:
            return stopped.code if isinstance(stopped.code, int) else 0, said.getvalue()
    raise AssertionError("it did not exit")


def judge(argv: list[str], what: str) -> int:
    try:
        code, said = run(argv)
    except (Exception, Hang) as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert code in (0, 1, 2), f"{what}: exit {code}\n{said[-500:]}"
    assert "Traceback" not in said, f"{what}\n{said[-2000:]}"
    if code == 2:
        assert said.strip(), f"{what}: exit 2 without a word"
    return code


def bases() -> list[dict[str, Any]]:
    """Settings from which files are broken: everything at its default, production, and one with all that can be set."""
    example = yaml.safe_load((ROOT / "deploy" / "examples" / "nemotron-nano-9b-v2-production.yaml").read_text())
    rich = {
        "model": {"id": "nemotron-nano-9b-v2", "served_name": "n"},
        "accelerator": {"name": "a10g", "memory_gib": 22.5},
        "engine": {
            "max_model_len": 8192, "max_num_seqs": 32, "kv_cache_memory_bytes": 2**31, "gpu_memory_utilization": 0.9,
            "tensor_parallel_size": 2, "enable_prefix_caching": True, "extra_args": {"max_logprobs": 5},
            "hf_overrides": {"rope_theta": 1}, "speculative_config": {"num_speculative_tokens": 2},
        },
        "scaling": {"min_replicas": 1, "max_replicas": 4},
        "guard": {"kind": "rules", "window_tokens": 100},
        "reasoning": {"efforts": {"low": 5}, "control_words": ["/think"]},
    }  # fmt: skip
    return [Settings().model_dump(mode="json"), example, rich]


def report(counts: Counter[Any]) -> None:
    print(json.dumps({"seed": SEED, **{str(key): value for key, value in sorted(counts.items(), key=str)}}))


def test_settings_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "hybridserve.yaml"
    known, counts = bases(), Counter[int]()
    for number in range(FILES):
        rng = random.Random(f"{SEED}/{number}")
        tree = rng.choice(known)
        if rng.random() < 0.75:
            data = yaml.safe_dump(mutate_tree(tree, rng), allow_unicode=True).encode("utf-8", "surrogatepass")
        else:
            data = mutate_text(yaml.safe_dump(tree), rng)
        file.write_bytes(data)
        name = rng.choice(sorted(COMMANDS))
        counts[judge([*COMMANDS[name], str(file)], f"seed {SEED} number {number}, {name}:\n{data[:3000]!r}")] += 1
    report(counts)
    assert counts[0] > 0, "some must still be right, or nothing deep was reached"
    assert counts[2] > 0


def test_models_config_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["demo", "nemotron-nano-9b-v2", "qwen3-8b", "granite-4.0-h-tiny", "falcon-h1-0.5b-instruct"]
    configs = [dict(resolve_model(name).config) for name in names]
    counts: Counter[int] = Counter()
    folder = tmp_path / "model"
    folder.mkdir()
    for number in range(FILES):
        rng = random.Random(f"{SEED}/config/{number}")
        config = rng.choice(configs)
        text = json.dumps(mutate_tree(config, rng))
        data = text.encode("utf-8", "surrogatepass") if rng.random() < 0.85 else mutate_text(text, rng)
        (folder / "config.json").write_bytes(data)
        argv = ["plan", str(folder), "--gpu", "h100", *rng.choice([[], ["--json"], ["--tp", "2"], ["--bound"]])]
        counts[judge(argv, f"seed {SEED} number {number}, {argv[2:]}:\n{data[:4000]!r}")] += 1
    report(counts)
    assert counts[0] > 0
    assert counts[2] > 0


SCENARIO_TREES = [json.loads(load_scenario(name).model_dump_json()) for name in built_in()]
TRACE = "time,prompt,output\n" + "\n".join(f"{i * 0.5},{100 + i},{20 + i}" for i in range(12)) + "\n"
TIMES = [entry.read_text() for entry in BUILT_IN.iterdir() if entry.name.endswith(".yaml")]
KEYS = f"# keys\n{key_line('alice', new_key(), rpm=5)}\n{key_line('bob', new_key(), ('metrics', 'admin'))}\n"
RULES = (ROOT / "src/hybridserve/guards/patterns.yaml").read_text()


def rules(text: str, where: str) -> object:
    Path(where).write_text(text, encoding="utf-8")
    return PatternGuard(Path(where))


READERS: dict[str, tuple[Callable[[str, str], object], list[Any]]] = {
    "scenario": (parse_scenario, SCENARIO_TREES),
    "trace": (parse_trace, [TRACE]),
    "calibration": (parse_service_times, [yaml.safe_load(text) for text in TIMES]),
    "keys": (parse_keys, [KEYS]),
    "rules": (rules, [yaml.safe_load(RULES), RULES]),
}


@pytest.mark.parametrize("kind", READERS)
def test_other_files(kind: str, tmp_path: Path) -> None:
    read, known = READERS[kind]
    assert known
    counts: Counter[str] = Counter()
    where = str(tmp_path / "file")
    for number in range(FILES):
        rng = random.Random(f"{SEED}/{kind}/{number}")
        base = rng.choice(known)
        if isinstance(base, str):
            text = mutate_text(base, rng).decode("utf-8", "replace")
        else:
            text = yaml.safe_dump(mutate_tree(base, rng), allow_unicode=True)
        try:
            with within(LONGEST_S):
                read(text.encode("utf-8", "replace").decode(), where)
            counts["read"] += 1
        except HybridServeError:
            counts["refused"] += 1
        except (Exception, Hang) as error:
            raise AssertionError(
                f"seed {SEED} number {number}: {type(error).__name__}: {error}\n{text[:3000]}"
            ) from error
    report(counts)
    assert counts["refused"] > 0


@pytest.mark.parametrize("file", sorted(FINDINGS.glob("*")), ids=lambda path: path.name)
def test_regressions_found_by_fuzzing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`COMMAND.anything.yaml` is a settings file; `model.anything.json` a model's config.json."""
    monkeypatch.chdir(tmp_path)
    command = file.name.split(".")[0]
    if command == "model":
        (tmp_path / "config.json").write_bytes(file.read_bytes())
        argvs = [["plan", str(tmp_path), "--gpu", "h100"], ["plan", str(tmp_path), "--gpu", "h100", "--bound"]]
    else:
        argvs = [[*COMMANDS[command], str(file)]]
    for argv in argvs:
        judge(argv, file.name)
