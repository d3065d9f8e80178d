"""`hybridserve serve`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from hybridserve.cli.options import AsJson, Assignments, ConfigFile
from hybridserve.errors import EnvironmentFault
from hybridserve.settings import load

PATHS = {
    "haproxy": "HAProxy, straight to the replica",
    "proxy": "Ray Serve's proxy",
    "single": "one engine, without Ray",
}

app = typer.Typer(rich_markup_mode=None)


@app.command()
def serve(
    config: ConfigFile = None,
    assign: Assignments = None,
    model: Annotated[str | None, typer.Option(help="Catalogue id, folder or repository.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind.")] = None,
    data_path: Annotated[str | None, typer.Option(help="auto, haproxy, proxy, or single: without Ray.")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model: Ray Serve, the OpenAI API, metrics. Without a file it serves the demo model on this CPU.

    Example: hybridserve serve --port 8080 --set engine.max_num_seqs=16
    """
    flags = [f"{path}={json.dumps(value)}" for path, value in _given(model, host, port, data_path) if value is not None]
    settings = load(config, [*flags, *(assign or ())]).settings

    try:
        from hybridserve.runtime.runner import Progress, Ready, serve
    except ModuleNotFoundError as missing:
        raise EnvironmentFault(
            "install",
            f"{missing.name} is not installed; planning needs less than serving",
            "make install LOCK=cpu, or gpu",
        ) from None

    def tell(phase: str) -> None:
        if not as_json:
            print(f"[{progress.elapsed():5.1f} s] {phase}", file=sys.stderr, flush=True)

    def ready(service: Ready) -> None:
        if as_json:
            told = {
                "url": service.url,
                "model": service.model,
                "cache": service.cache,
                "data_path": service.data_path,
                "ready_s": round(service.seconds, 3),
                "phases": [{"phase": phase, "at_s": round(at, 3)} for phase, at in progress.phases],
            }
            print(json.dumps(told), flush=True)
            return
        question = json.dumps({"model": service.model, "messages": [{"role": "user", "content": "What is this?"}]})
        print(f"[{service.seconds:5.1f} s] ready\n", file=sys.stderr)
        print(f"  API     {service.url}/v1   (OpenAI; model {service.model!r})")
        print(f"  path    {PATHS[service.data_path]}")
        print(f"  cache   {service.cache}")
        print(f"  logs    {service.logs}")
        print(f"\n  try     curl {service.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{question}'")
        print("\nCtrl-C stops it.", flush=True)

    progress = Progress(tell)
    serve(settings, progress, ready)


def _given(
    model: str | None, host: str | None, port: int | None, data_path: str | None
) -> list[tuple[str, str | int | None]]:
    return [
        ("model.id", model),
        ("server.host", host),
        ("server.port", port),
        ("server.data_path", data_path),
    ]
