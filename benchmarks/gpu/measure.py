"""Measure real vLLM with dummy weights at full-size shapes: what the cache takes and how fast a step is.

    python measure.py --out DIR [--budget 480] [--steps a,b,...] [--tiny | --short]

One process imports vLLM and each step forks from it, so that nothing is imported twice and no step inherits another's
GPU memory. Steps run in the order given while the budget lasts. results.json is written after each, so a run that is
cut off leaves what it had. Neither a tokenizer nor weights are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")  # flashinfer is not carried; the sampler would import it
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # counting GPUs must not start CUDA before the fork
sys.path.insert(0, str(HERE))
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])

from steps import FULL, ORDER, SHORT, TINY, Sizes, StepRun, steps  # noqa: E402

from engine import ATTEMPTS, as_json  # noqa: E402 - after the environment is set

# What every step would import for itself.
PREIMPORTED = (
    "vllm.entrypoints.llm",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.v1.engine.core",
    "vllm.v1.worker.gpu_worker",
    "vllm.v1.worker.gpu.model_runner",
    "vllm.model_executor.models.nemotron_h",
    "vllm.model_executor.models.qwen3",
    "transformers.models.nemotron_h.configuration_nemotron_h",
    "transformers.models.qwen3.configuration_qwen3",
)
# Lines of the engine's log that results.json keeps.
KEEP = re.compile(
    r"KV cache|Maximum concurrency|Graph capturing|graph memory|CUDA graph pool|Model loading took|torch\.compile took|"
    r"init engine|attention backend|FlashAttention version|Model Runner|block size|page size|Mamba cache mode|"
    r"mamba_ssm_cache_dtype|Free memory on device|WARNING|ERROR"
)
# Seconds tell a start with a torch.compile cache (1 to 2) from one without: the pools differ.
COMPILED = re.compile(r"torch\.compile took ([0-9.]+) s")
# The versions that the kit was built for: (distribution, accepted prefixes) on a GPU and with vLLM's CPU build.
GPU_VERSIONS = {"vllm": ("0.29.",), "torch": ("2.11.", "2.13.")}
CPU_VERSIONS = {"vllm": ("0.29.",), "torch": ("2.13.",)}
CUDA_MAJOR = "13"
PYTHONS = ((3, 11), (3, 12), (3, 13))


def wrong_machine(sizes: Sizes) -> str | None:
    """Why this machine cannot run the kit, in one line, or None. Imports torch only where its version is right."""
    if sys.version_info[:2] not in PYTHONS:
        return f"Python {platform.python_version()}, expected 3.11 to 3.13"
    tiny = sizes is TINY
    for name, prefixes in (CPU_VERSIONS if tiny else GPU_VERSIONS).items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            return f"{name} is not installed, expected {' or '.join(f'{prefix}x' for prefix in prefixes)}"
        if not version.startswith(prefixes):
            return f"{name} {version}, expected {' or '.join(f'{prefix}x' for prefix in prefixes)}"
    if tiny:
        return None
    import torch

    cuda = torch.version.cuda
    if cuda is None or not cuda.startswith(f"{CUDA_MAJOR}."):
        return f"torch {torch.__version__} is built for CUDA {cuda}, expected CUDA {CUDA_MAJOR}.x"
    return None


def child(name: str, sizes: Sizes, limit_s: float, part: Path, log: Path, attempt: int) -> int:
    """Run one step in this process with all output in the log; returns the exit code."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    run = StepRun({"step": name}, limit_s, part, attempt)
    try:
        call, settings, _ = steps(sizes)[name]
        call(run, sizes, **settings)
        run.out["ok"] = True
    except BaseException as error:  # recorded; the next step runs
        traceback.print_exc()
        run.out["ok"] = False
        run.out["error"] = f"{type(error).__name__}: {error}"[:2000]
    run.out["took_s"] = round(run.limit_s - run.left(), 2)
    run.save()
    sys.stdout.flush()
    sys.stderr.flush()
    return 0 if run.out["ok"] else 1


def run_step(
    name: str, sizes: Sizes, limit_s: float, mode: list[str], folder: Path, attempt: int
) -> tuple[dict[str, Any], str]:
    """Run one step in a child process; returns its results and its output."""
    part, log = folder / f"{name}.{attempt}.json", folder / f"{name}.{attempt}.log"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            import torch

            if getattr(torch.cuda, "_is_in_bad_fork", lambda: False)():  # CUDA was started before the fork: exec anew
                words = [sys.executable, __file__, "--child", name, "--limit", str(limit_s), "--part", str(part)]
                words += ["--log", str(log), "--out", str(folder), "--attempt", str(attempt), *mode]
                os.execv(sys.executable, words)
            code = child(name, sizes, limit_s, part, log, attempt)
        finally:
            os._exit(code)
    end, state = time.monotonic() + limit_s + 5, None
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            state = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.05)
    if state is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    out = json.loads(part.read_text()) if part.exists() else {"step": name}
    out["exit"] = "killed: out of time" if state is None else state
    text = log.read_text(errors="replace") if log.exists() else ""
    if found := COMPILED.search(text):
        out["torch_compile_s"] = float(found[1])
    out["lines"] = [line[:400] for line in text.splitlines() if KEEP.search(line) and "it/s]" not in line][:60]
    return out, text


def summary(out: dict[str, Any]) -> str:
    """One step in one line."""
    words = [f"{out['step']:16s} {'ok' if out.get('ok') else 'FAILED'} {out.get('took_s', '?')} s"]
    if "facts" in out:
        found = out["facts"]
        words.append(
            f"start {out['start']['start_s']} s blocks {found['pool']['num_blocks']} "
            f"tokens {found['cache'].get('kv_cache_size_tokens')} "
            f"pool {found['memory'].get('available_kv_cache_memory_bytes')}"
        )
    for row in out.get("workloads", []):
        decode = row["decode"]
        words.append(
            f"{row['isl']}/{row['osl']}: {row['output_tokens_per_s']} tok/s ({decode['running']} sequences, "
            f"{decode['step_ms_mean']} ms a step, prefill {row['prefill_tokens_per_s']} tok/s)"
        )
    words += [f"turn {row['turn']}: {row['ttft_s']} s" for row in out.get("turns", [])[-1:]]
    words += [f"{key} {out[key]}" for key in ("copy_TB_per_s", "read_TB_per_s", "bf16_TFLOP_per_s") if key in out]
    words += [f"kernels {out['kernels']}"] if "kernels" in out else []
    words += [out["error"][:200]] if "error" in out else []
    return " | ".join(words)


def environment(begin: float) -> dict[str, Any]:
    """Versions, device and environment of this run; imports vLLM and what every step needs."""
    import torch
    import vllm

    for module in PREIMPORTED:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    from vllm.platforms import current_platform

    about: dict[str, Any] = {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": type(current_platform).__name__,
        "device": as_json(current_platform.get_device_name()),
        "import_s": round(time.monotonic() - begin, 2),
        "environment": {
            key: value
            for key, value in os.environ.items()
            if key.startswith(("VLLM_", "TORCH", "TRITON", "CUDA_")) and "TOKEN" not in key and "KEY" not in key
        },
    }
    for module in ("triton", "transformers", "numpy"):
        with contextlib.suppress(Exception):
            about[module] = metadata.version(module)
    return about


def run_all(names: list[str], sizes: Sizes, mode: list[str], budget_s: float, out: Path, begin: float) -> bool:
    """Run the steps while the budget lasts; returns whether every step that ran succeeded."""
    results: dict[str, Any] = {"argv": sys.argv[1:], "begun": time.strftime("%Y-%m-%d %H:%M:%S"), "steps": []}
    results["about"] = environment(begin)
    print(json.dumps(results["about"]), flush=True)

    def write() -> None:
        results["took_s"] = round(time.monotonic() - begin, 2)
        (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")

    complete = True
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for attempt in range(len(ATTEMPTS)):
                left, limit = budget_s - (time.monotonic() - begin), steps(sizes)[name][2]
                if left < min(40, limit):
                    results["steps"].append({"step": name, "attempt": attempt, "skipped": f"{left:.0f} s left"})
                    print(f"{name:16s} skipped, {left:.0f} s left", flush=True)
                    break
                result, text = run_step(name, sizes, min(limit, left), mode, Path(folder), attempt)
                results["steps"].append(result)
                with (out / "engine.log").open("a") as log:
                    log.write(f"\n===== {name}, attempt {attempt}\n{text[-400_000:]}")
                write()
                print(summary(result), flush=True)
                if result.get("ok"):
                    break
                print("\n".join(text.splitlines()[-25:])[-3000:], flush=True)
                # A step that was up, or that ran out of time, would fail the same way again.
                killed = str(result["exit"]).startswith("killed")
                if "facts" in result or name == "probe" or sizes is TINY or killed:
                    complete = False
                    break
    write()
    return complete


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: every step that ran succeeded; 1: one failed; 2: the machine or an option is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json and engine.log")
    parser.add_argument("--budget", type=float, default=480, help="seconds for all steps")
    parser.add_argument("--steps", default=ORDER, help="comma-separated steps, in their order")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on vLLM's CPU build")
    parser.add_argument("--short", action="store_true", help="real widths with few layers")
    for hidden, kind in (("--child", str), ("--limit", float), ("--part", Path), ("--log", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--attempt", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    sizes = TINY if asked.tiny else SHORT if asked.short else FULL
    mode = ["--tiny"] if asked.tiny else ["--short"] if asked.short else []
    if asked.child:
        return child(asked.child, sizes, asked.limit, asked.part, asked.log, asked.attempt)
    names = asked.steps.split(",")
    if unknown := [name for name in names if name not in steps(sizes)]:
        parser.error(f"--steps {','.join(unknown)}: unknown; choose from {ORDER}")
    begin = time.monotonic()
    if reason := wrong_machine(sizes):
        print(f"measure.py: {reason}", file=sys.stderr)
        return 2
    asked.out.mkdir(parents=True, exist_ok=True)
    return 0 if run_all(names, sizes, mode, asked.budget, asked.out, begin) else 1


if __name__ == "__main__":
    sys.exit(main())
