"""Prefix reuse of the `agent` scenario: plain `vllm serve` against hybridserve's settings. `make bench-cache`

Every variant serves the same conversations, several at once, with greedy sampling. The command fails where an answer
differs in any token from that without prefix caching, where our counters differ from the engine's, and where our
settings reuse less than 95 % in a pool that does not evict. One file per variant is written into .cache/cache;
`--table` writes the table of docs/evidence/cache.md from them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain as joined
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from hybridserve.engine.preload import inline_worker_flags
from hybridserve.loadtest.prompts import Conversation, Prompts
from hybridserve.loadtest.scenario import ChatKind, load_scenario
from hybridserve.planning.cache.reuse import STEP, SeenPrefixes, chain
from hybridserve.runtime.ingress import free_ports
from hybridserve.settings import load

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".cache" / "cache"
PAGE = ROOT / "docs" / "evidence" / "cache.md"
MODEL = ROOT / "src" / "hybridserve" / "demo_model"
POOL = 256 << 20
SMALL_POOL = 18 * 196_608
USERS, CONVERSATIONS = 4, 8
# Share of the reusable tokens that has to hit, where the pool holds what the conversations leave.
TARGET = 0.95
# With this system prompt every conversation grows over the end of a block, so that a full pool preempts others.
LONG_SYSTEM, LONG_CONVERSATIONS = 50, 16
REPLICAS = ["--set", "scaling.min_replicas=2", "--set", "scaling.max_replicas=2"]
SINGLE = ["--data-path", "single"]
OFF = ["--set", "engine.enable_prefix_caching=false"]
SMALL = ["--set", f"engine.kv_cache_memory_bytes={SMALL_POOL}", "--set", "engine.max_num_seqs=16",
         "--set", "engine.max_model_len=3072"]  # fmt: skip

# Name: title, flags of `hybridserve serve`; None starts `vllm serve` itself, with the same pool.
VARIANTS: dict[str, tuple[str, list[str] | None]] = {
    "off": ("prefix caching off", [*SINGLE, *OFF]),
    "vllm": ("`vllm serve`, its defaults", None),
    "ours": ("`hybridserve serve`", SINGLE),
    "two": ("`hybridserve serve`, two replicas", REPLICAS),
    "proxy": ("`hybridserve serve`, two replicas behind Ray's proxy", [*REPLICAS, "--data-path", "proxy"]),
    "long_off": ("16 longer conversations: prefix caching off", [*SINGLE, *OFF]),
    "long_small": ("the same, `hybridserve serve`, a pool of 18 blocks", [*SINGLE, *SMALL]),
    "long_small_two": ("the same, two replicas with 18 blocks each", [*REPLICAS, *SMALL]),
}  # fmt: skip


def main() -> None:
    """Run the named variants, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help=f"of {', '.join(VARIANTS)}; all by default")
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in () if options.table else options.variants or VARIANTS:
        (FOLDER / f"{name}.json").write_text(json.dumps(run(name)))
        print(name, json.dumps({k: v for k, v in read(name).items() if k != "answers"}), flush=True)
    rows = table([name for name in VARIANTS if (FOLDER / f"{name}.json").exists()])
    print(rows)
    if PAGE.exists():
        marks = r"(<!-- bench-cache -->\n).*(<!-- /bench-cache -->)"
        PAGE.write_text(re.sub(marks, lambda found: found[1] + rows + found[2], PAGE.read_text(), flags=re.S))


def run(name: str) -> dict[str, Any]:
    """Serve the conversations with one variant."""
    flags = VARIANTS[name][1]
    with started(flags) as (url, model):
        long = name.startswith("long")
        conversations = [Conversation(kind(n, long), n) for n in range(LONG_CONVERSATIONS if long else CONVERSATIONS)]
        before = counters(url, name)
        session = "x-session-id" if name == "proxy" else None
        with ThreadPoolExecutor(len(conversations) if long else USERS) as pool:
            turns = list(pool.map(lambda conversation: talk(url, model, conversation, session), conversations))
        time.sleep(1)  # the accounting thread
        after = counters(url, name)
    seen, reusable = SeenPrefixes(1 << 40, STEP), 0
    for turn in sorted((turn for one in turns for turn in one), key=lambda turn: float(turn["end"])):
        prompt, output = turn.pop("prompt"), turn["output"]
        reusable += seen.longest(chain(prompt[:-1]))
        seen.add(chain(prompt + output))
        turn["tokens"] = len(prompt)
    grown = {key: value - before.get(key, 0.0) for key, value in after.items()}
    flat = [turn for one in turns for turn in one]
    return {
        "requests": len(flat),
        "prompt_tokens": sum(turn["tokens"] for turn in flat),
        "reusable": reusable,
        "ttft_first": median(turn["ttft"] for one in turns for turn in one[:1]),
        "ttft_last": median(turn["ttft"] for one in turns for turn in one[-1:]),
        "counters": grown,
        "answers": [[turn["output"] for turn in one] for one in turns],
    }


def kind(number: int, long: bool) -> ChatKind:
    """The scenario's kind with another order of questions for each conversation: equal ones reuse each other whole."""
    (found,) = load_scenario("agent").mix
    assert isinstance(found, ChatKind)
    count = len(found.questions)
    step = 1 if number < count else -1
    questions = tuple(found.questions[(number + step * turn) % count] for turn in range(count))
    system = LONG_SYSTEM if long else found.repeat_system
    return found.model_copy(update={"questions": questions, "repeat_system": system})


def talk(url: str, model: str, conversation: Conversation, session: str | None) -> list[dict[str, Any]]:
    """One conversation to its end."""
    scenario = load_scenario("agent")
    prompts, turns = Prompts(scenario, model, (100, 900), conversation.number), []
    headers = {session: f"conversation-{conversation.number}"} if session else {}
    for turn in range(conversation.kind.turns):
        conversation.turn = turn
        body = json.loads(prompts.turn(conversation).body) | {"temperature": 0, "return_token_ids": True}
        del body["reasoning"]  # the gateway's field; vLLM itself knows only the template's switch
        body["chat_template_kwargs"] = {"enable_thinking": False}
        turns.append(stream(url, body, headers))
        conversation.messages.append({"role": "assistant", "content": turns[-1].pop("text")})
    return turns


def stream(url: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    """One streamed answer: prompt and output tokens, text, and the time to the first token in seconds."""
    prompt: list[int] = []
    output: list[int] = []
    text, first, start = "", 0.0, time.perf_counter()
    with (
        httpx.Client(timeout=300, trust_env=False) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            prompt = event.get("prompt_token_ids") or prompt
            for choice in event["choices"]:
                ids = choice.get("token_ids") or []
                first = first or (time.perf_counter() - start if ids else 0.0)
                output += ids
                text += choice["delta"].get("content") or ""
    return {"prompt": prompt, "output": output, "text": text, "ttft": first, "end": time.perf_counter()}


def counters(url: str, name: str) -> dict[str, float]:
    """The engine's and our counters over all replicas, from their metrics ports."""
    pages = [httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text]
    if "two" in name or name == "proxy":
        targets = [json.loads(file.read_text())[0]["targets"][0] for file in sorted(TARGETS.glob("*.json"))]
        pages = [httpx.get(f"http://{target}/metrics", timeout=60, trust_env=False).text for target in targets]
    names = r"vllm:prefix_cache_hits_total|vllm:num_preemptions_total|hybridserve_prefix_\w+_tokens_total"
    found: dict[str, float] = {}
    for page in pages:
        for metric, labels, value in re.findall(rf"^({names})(\{{.*\}})? (\S+)$", page, re.M):
            cause = re.search(r'cause="(\w+)"', labels or "")
            key = f"lost:{cause[1]}" if cause else metric
            found[key] = found.get(key, 0.0) + float(value)
    return found


TARGETS = FOLDER / "targets"


@contextmanager
def started(flags: list[str] | None) -> Iterator[tuple[str, str]]:
    """A running server: its URL and model."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    binaries = Path(sys.executable).parent
    if flags is None:
        words = [str(binaries / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)]
        words += ["--served-model-name", "demo", "--port", str(port), "--enforce-eager", "--max-model-len", "4096"]
        words += ["--kv-cache-memory-bytes", str(POOL), "--mamba-ssm-cache-dtype", "float32", "--seed", "0"]
        words += inline_worker_flags(load(environ={}).settings)
    else:
        for file in TARGETS.glob("*.json"):
            file.unlink()
        words = [str(binaries / "hybridserve"), "serve", "--json", "--port", str(port), *flags]
        words += ["--set", f"telemetry.targets_dir={TARGETS}"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"}
    with (FOLDER / "server.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environ)
    try:
        wait(lambda: httpx.get(f"{url}/v1/models", timeout=10, trust_env=False).status_code == 200, process)
        if flags is not None and "scaling.min_replicas=2" in flags:
            wait(lambda: len(list(TARGETS.glob("*.json"))) >= 2 and replicas() == 2, process)
        yield url, "demo"
    finally:
        process.terminate()
        process.wait(timeout=120)


def replicas() -> int:
    """Replicas that export their state slots."""
    count = 0
    for file in TARGETS.glob("*.json"):
        target = json.loads(file.read_text())[0]["targets"][0]
        count += "hybridserve_state_slots " in httpx.get(f"http://{target}/metrics", timeout=20, trust_env=False).text
    return count


def wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], timeout_s: float = 400) -> None:
    """Until the server is ready."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, (FOLDER / "server.log").read_text()[-2000:]
        try:
            if ready():
                return
        except httpx.HTTPError:
            pass
        time.sleep(1)
    raise TimeoutError((FOLDER / "server.log").read_text()[-2000:])


def read(name: str) -> dict[str, Any]:
    """The result of a variant."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def differences(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Answers that differ."""
    return sum(a != b for a, b in zip(joined(*one), joined(*other), strict=True))


def table(names: Sequence[str]) -> str:
    """The table of docs/evidence/cache.md."""
    lines = [
        "| variant | prompt tokens | reusable | hit | share | computed | first / eighth turn TTFT | preempted "
        "| answers that differ |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        run, other = read(name), FOLDER / ("long_off.json" if name.startswith("long") else "off.json")
        reference = json.loads(other.read_text())["answers"] if other.exists() else None
        count = run["counters"]
        hit = round(count["vllm:prefix_cache_hits_total"])
        ours = count.get("hybridserve_prefix_hit_tokens_total")
        if ours is not None and "off" not in name and "small" not in name:
            assert round(ours) == hit, f"{name}: our counter {ours}, the engine's {hit}"
        lost = sum(value for key, value in count.items() if key.startswith("lost:"))
        if ours is not None:
            assert ours + lost == count["hybridserve_prefix_reusable_tokens_total"], name
        assert len({json.dumps(one) for one in run["answers"]}) == len(run["answers"]), f"{name}: equal conversations"
        different = differences(reference, run["answers"]) if reference is not None else "-"
        assert different in (0, "-"), f"{name}: {different} answers are not those without prefix caching"
        assert name not in ("ours", "two", "proxy") or hit >= TARGET * run["reusable"], f"{name}: {hit} tokens hit"
        cells = (
            VARIANTS[name][0], f"{run['prompt_tokens']:,}", f"{run['reusable']:,}", f"{hit:,}",
            f"{hit / run['reusable']:.1%}", f"{run['prompt_tokens'] - hit:,}",
            f"{run['ttft_first'] * 1000:,.0f} / {run['ttft_last'] * 1000:,.0f} ms",
            f"{count['vllm:num_preemptions_total']:,.0f}", f"{different} of {run['requests']}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
