"""`hybridserve plan --list`: models and accelerators of the catalog."""

from __future__ import annotations

import json

import typer

from hybridserve.catalog.accelerators import Accelerator, accelerators
from hybridserve.catalog.models import model_ids
from hybridserve.units import GIB


def show(as_json: bool) -> None:
    """Print models and accelerators."""
    devices = accelerators()
    if as_json:
        content = {
            "models": list(model_ids()),
            "accelerators": [
                {
                    "id": device.id,
                    "name": device.name,
                    "memory_bytes": device.memory_bytes,
                    "has_kernels": _has_kernels(device),
                }
                for device in devices
            ],
        }
        typer.echo(json.dumps(content, indent=2))
        return
    typer.secho("Models", bold=True)
    for name in model_ids():
        typer.echo(f"  {name}")
    typer.secho("\nGPUs", bold=True)
    for device in devices:
        memory = f"{device.memory_bytes / GIB:6.2f} GiB" if device.memory_bytes else "by machine"
        note = "" if _has_kernels(device) else ": no plan, vLLM's wheels have no kernels for it"
        typer.echo(f"  {device.id:<14}{memory:>11}  {device.name}{note}")


def _has_kernels(device: Accelerator) -> bool:
    """Whether vLLM runs on it; the device named generic may be any."""
    return device.has_kernels or device.compute_capability is None
