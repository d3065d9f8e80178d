"""Compare a hybrid model with a transformer on vLLM, over lengths and concurrency: `make bench-hybrid`.

    python benchmarks/hybrid.py                       # CPU: two models of 30 million parameters
    python benchmarks/hybrid.py --shapes published    # GPU: Nano 9B v2 and Qwen3-8B shapes, dummy weights

Both servers run with the same engine arguments and cache size. Only one has load at a time; the order alternates. Each
measured ratio is shown beside the planned one: cache and concurrency are those of the engine, throughput is the ratio
of planned upper bounds for the peaks of this machine, which exclude overheads.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from cache_probe import CacheProbe
from hybrid_models import write_pair

from hybridserve.engine.preload import inline_worker_flags
from hybridserve.loadtest.runner import Runner
from hybridserve.loadtest.scenario import validate_scenario
from hybridserve.planning.cache.layout import plan_cache
from hybridserve.planning.cache.types import CachePlan, CacheRequest
from hybridserve.planning.memory.weights import count_weights
from hybridserve.planning.models import read_architecture
from hybridserve.planning.resolve import engine_environment
from hybridserve.planning.roofline import DevicePeaks, ServedModel, bound
from hybridserve.settings import load

HEAD = (
    "| prompt/output | at once | tokens/s | ratio (planned bound) | TTFT ms | ratio (planned bound) | ran at once "
    "(planned) | MiB of cache a sequence (planned) | fit in the cache, planned |\n|---|---|---|---|---|---|---|---|---|"
)
NAMES = ("hybrid", "transformer")
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Size:
    """Lengths in prompt/output tokens, concurrencies, and limits of the engine."""

    lengths: tuple[tuple[int, int], ...]
    concurrency: tuple[int, ...]
    context: int
    cache_bytes: int
    sequences: int
    platform: str


CPU = Size(((64, 64), (512, 128), (2048, 256), (3584, 512)), (1, 8, 24), 4096, 160 << 20, 24, "cpu")
GPU = Size(((1024, 1024), (1024, 8192), (8192, 1024), (8192, 16384)), (1, 8, 32, 128), 32768, 12 << 30, 256, "cuda")


@dataclass(frozen=True)
class Side:
    """A model with its plan and server."""

    name: str
    config: dict[str, Any]
    plan: CachePlan
    served: ServedModel
    runner: Runner


def main() -> None:
    """Start both servers, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=["small", "published"], default="small")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    size = CPU if options.shapes == "small" else GPU
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        models = _models(options.shapes, out)
        ports = {name: _free_port() for name in NAMES}
        servers = {name: _start(name, models[name], ports[name], size, options.shapes, out) for name in NAMES}
        try:
            sides = {name: _side(name, models[name], ports[name], servers[name], size, out) for name in NAMES}
            about = _about(sides, size)
            print(json.dumps(about, indent=2), file=sys.stderr)
            machine = _machine(size)
            rows = []
            print(HEAD, flush=True)
            for prompt, output in size.lengths:
                for concurrency in size.concurrency:
                    rows.append(_row(sides, machine, prompt, output, concurrency, options.rounds, out))
                    print(_line(rows[-1]), flush=True)
                    if options.json:
                        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
        finally:
            for server in servers.values():
                server.terminate()
            for server in servers.values():
                server.wait(60)


def _models(shapes: str, out: Path) -> dict[str, Path]:
    if shapes == "small":
        write_pair(out)
        return {name: out / name for name in NAMES}
    from hybridserve.catalog.models import resolve_model

    found = {}
    for name, model in zip(NAMES, ("nemotron-nano-9b-v2", "qwen3-8b"), strict=True):
        found[name] = out / name
        found[name].mkdir()
        (found[name] / "config.json").write_text(json.dumps(resolve_model(model).config))
    return found


def _start(name: str, model: Path, port: int, size: Size, shapes: str, out: Path) -> subprocess.Popen[bytes]:
    """Start vLLM. The arguments differ only in the type of the SSM state, which only the hybrid has."""
    arguments = [str(BIN / "vllm"), "serve", str(model), "--served-model-name", name, "--dtype", "bfloat16"]
    arguments += ["--max-model-len", str(size.context), "--max-num-seqs", str(size.sequences)]
    arguments += ["--max-num-batched-tokens", "2048", "--kv-cache-memory-bytes", str(size.cache_bytes)]
    arguments += ["--no-enable-prefix-caching", "--seed", "0", "--host", "127.0.0.1", "--port", str(port)]
    environment = dict(os.environ)
    if size.platform == "cpu":
        # One process, as in `hybridserve serve`: vLLM's two processes leave no core for the client.
        settings = load(environ={}).settings
        arguments += ["--enforce-eager", *inline_worker_flags(settings)]
        environment = {**engine_environment(settings), **environment}
    if shapes == "published":
        # Both share a GPU of 80 GB.
        arguments += ["--load-format", "dummy", "--skip-tokenizer-init", "--gpu-memory-utilization", "0.45"]
    if name == "hybrid":
        arguments += ["--mamba-ssm-cache-dtype", "float32"]
    with (out / f"{name}.log").open("wb") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _side(name: str, model: Path, port: int, server: subprocess.Popen[bytes], size: Size, out: Path) -> Side:
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 600
    while True:
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                break
        except httpx.HTTPError:
            pass
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{name} did not start:\n{(out / f'{name}.log').read_text()[-3000:]}")
        time.sleep(0.5)
    config = json.loads((model / "config.json").read_text())
    arch = read_architecture(config)
    request = CacheRequest(
        kv_bytes=size.cache_bytes,
        platform=size.platform,
        dtype="bfloat16",
        mamba_ssm_cache_dtype="float32" if name == "hybrid" else "auto",
        enable_prefix_caching=False,
        max_model_len=size.context,
        max_num_seqs=size.sequences,
        full_cudagraphs=size.platform == "cuda",
    )
    plan = plan_cache(arch, request)
    layout = plan.layout
    weights = count_weights(arch, dtype="bfloat16")
    served = ServedModel(arch, weights, layout.kv_bytes_per_token, layout.state_bytes_per_sequence)
    return Side(name, config, plan, served, Runner.connect(url, None, name, _scenario(8, 8, 1)))


def _about(sides: dict[str, Side], size: Size) -> dict[str, Any]:
    """Sizes of both models as planned, and as the engine reports them."""
    found: dict[str, Any] = {"size": asdict(size), "cores": os.cpu_count()}
    for name, side in sides.items():
        text = httpx.get(f"{side.runner.url}/metrics", trust_env=False).text
        info = next(line for line in text.splitlines() if line.startswith("vllm:cache_config_info{"))
        labels = dict(part.split("=", 1) for part in info[info.index("{") + 1 : info.rindex("}")].split('",'))
        engine = {
            key: labels[key].strip('"') for key in ("num_gpu_blocks", "kv_cache_max_concurrency") if key in labels
        }
        found[name] = {
            "parameters": side.served.weights.parameters,
            "cache_bytes_per_token": side.served.kv_bytes_per_token,
            "state_bytes_per_sequence": side.served.state_bytes,
            "planned_blocks": side.plan.num_blocks,
            "planned_concurrency_at_context": round(side.plan.concurrency, 3),
            "engine": engine,
        }
    return found


def _scenario(prompt: int, output: int, concurrency: int) -> Any:
    return validate_scenario(
        {
            "about": "hybrid against transformer",
            "mode": "closed",
            "curve": {"shape": "constant", "level": concurrency, "seconds": 600},
            "warm_up": 0,
            "requests": concurrency,
            "mix": [{"name": f"{prompt}/{output}", "type": "tokens", "prompt": prompt, "output": output}],
        },
        "bench-hybrid",
    )


def _row(
    sides: dict[str, Side], machine: DevicePeaks, prompt: int, output: int, concurrency: int, rounds: int, out: Path
) -> dict[str, Any]:
    """A length at a concurrency: medians over the rounds, and the planned values."""
    scenario = _scenario(prompt, output, concurrency)
    seen: dict[str, list[Any]] = {name: [] for name in NAMES}
    probes: dict[str, list[CacheProbe]] = {name: [] for name in NAMES}
    for turn in range(rounds):
        for name in NAMES if turn % 2 == 0 else reversed(NAMES):
            side = sides[name]
            pool = (side.plan.num_blocks - 1) * side.plan.layout.bytes_per_block
            with CacheProbe(side.runner.url, pool) as probe:
                result = side.runner.run(scenario, out / f"{name}-{prompt}-{output}-{concurrency}-{turn}")
            probes[name].append(probe)
            if result.summary.completed != concurrency:
                raise SystemExit(f"{name} at {prompt}/{output} x{concurrency}: {result.summary.outcomes}")
            seen[name].append(result.summary)
    row: dict[str, Any] = {"prompt": prompt, "output": output, "concurrency": concurrency}
    for name in NAMES:
        rates = [summary.output_throughput for summary in seen[name]]
        row[name] = {
            "tokens_per_s": median(rates),
            "spread": (max(rates) - min(rates)) / median(rates),
            "ttft_ms": median(summary.ttft.p50 * 1000 for summary in seen[name]),
            "tpot_ms": median(summary.tpot.p50 * 1000 for summary in seen[name]),
            "ran": max(probe.running for probe in probes[name]),
            "ran_planned": min(concurrency, sides[name].plan.n_steady(prompt + output)),
            "fits_planned": sides[name].plan.n_steady(prompt + output),
            "cache_bytes": max(probe.bytes_per_sequence for probe in probes[name]),
            "cache_bytes_planned": _cache_bytes(sides[name], prompt + output),
        }
    batches = {name: row[name]["ran_planned"] for name in NAMES}
    bounds = {name: bound(sides[name].served, machine, max(1, batches[name]), prompt, output) for name in NAMES}
    first, second = row["hybrid"], row["transformer"]
    row["ratio"] = {
        "throughput": first["tokens_per_s"] / second["tokens_per_s"],
        "throughput_planned": bounds["hybrid"].output_tokens_per_s / bounds["transformer"].output_tokens_per_s,
        "ttft": first["ttft_ms"] / second["ttft_ms"],
        "ttft_planned": bounds["hybrid"].first_token_s / bounds["transformer"].first_token_s,
        "concurrency": first["ran"] / max(1, second["ran"]),
        "concurrency_planned": first["fits_planned"] / second["fits_planned"],
        "cache": first["cache_bytes"] / max(1, second["cache_bytes"]),
        "cache_planned": first["cache_bytes_planned"] / second["cache_bytes_planned"],
    }
    return row


def _cache_bytes(side: Side, length: int) -> int:
    """Bytes of the pool that a sequence of this length uses."""
    return side.plan.layout.running_blocks(length) * side.plan.layout.bytes_per_block


def _line(row: dict[str, Any]) -> str:
    ratio, first, second = row["ratio"], row["hybrid"], row["transformer"]
    ran = " / ".join(f"{side['ran']} ({side['ran_planned']})" for side in (first, second))
    fits = f"{first['fits_planned']} / {second['fits_planned']} = {ratio['concurrency_planned']:.1f}"
    cache = " / ".join(
        f"{side['cache_bytes'] / 2**20:.1f} ({side['cache_bytes_planned'] / 2**20:.1f})" for side in (first, second)
    )
    cells = [
        f"{row['prompt']}/{row['output']}",
        f"{row['concurrency']}",
        f"{first['tokens_per_s']:.0f} / {second['tokens_per_s']:.0f}",
        f"{ratio['throughput']:.2f} ({ratio['throughput_planned']:.2f})",
        f"{first['ttft_ms']:.0f} / {second['ttft_ms']:.0f}",
        f"{ratio['ttft']:.2f} ({ratio['ttft_planned']:.2f})",
        ran,
        cache,
        fits,
    ]
    return f"| {' | '.join(cells)} |"


def _machine(size: Size) -> DevicePeaks:
    """Peaks of this machine, measured with a matrix product and a copy."""
    import torch

    device = "cuda" if size.platform == "cuda" else "cpu"
    matrix = torch.randn(2048, 2048, dtype=torch.bfloat16, device=device)
    # Write both first: the first access to a page costs more than its copy, and zero pages are shared.
    large = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    copy = torch.ones_like(large)
    flops, copied = [], []
    for _ in range(5):
        flops.append(2 * 2048**3 / _timed(lambda: matrix @ matrix, device))
        copied.append(2 * large.numel() / _timed(lambda: copy.copy_(large), device))
    print(f"peaks: {max(flops) / 1e9:.0f} GFLOP/s, {max(copied) / 1e9:.1f} GB/s", file=sys.stderr)
    return DevicePeaks(max(copied), max(flops))


def _timed(work: Any, device: str) -> float:
    import torch

    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
