"""`hybridserve serve`."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from typing import Annotated

import typer

from hybridserve.cli.options import AsJson, Assignments, ConfigFile, read_settings
from hybridserve.settings import Option

PATHS = {
    "haproxy": "HAProxy, directly to the replica",
    "proxy": "Ray Serve's proxy",
    "single": "vLLM's own server, without Ray",
}

WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(
    config: ConfigFile = None,
    assign: Assignments = None,
    model: Annotated[str | None, typer.Option(help="Catalog id, folder or repository.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind.")] = None,
    data_path: Annotated[str | None, typer.Option(help="auto, haproxy, proxy, or single (without Ray).")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model with the OpenAI API and metrics. Without a settings file it serves the demo model on this CPU.

    Example: hybridserve serve --port 8080 --set engine.max_num_seqs=16
    """
    options = [
        Option("--model", "model.id", model),
        Option("--host", "server.host", host),
        Option("--port", "server.port", port),
        Option("--data-path", "server.data_path", data_path),
    ]
    settings = read_settings(config, assign, options).settings

    from hybridserve.runtime.serve import Progress, Ready, serve

    def report(phase: str) -> None:
        if not as_json:
            print(f"[{progress.elapsed():5.1f} s] {phase}", file=sys.stderr, flush=True)

    def ready(service: Ready) -> None:
        if as_json:
            summary = {
                "url": service.url,
                "model": service.model,
                "cache": service.cache,
                "data_path": service.data_path,
                "ready_s": round(service.seconds, 3),
                "try": to_try(service.url, service.model, service.tools, keyed),
                "phases": [{"phase": phase, "at_s": round(at, 3)} for phase, at in progress.phases],
            }
            print(json.dumps(summary), flush=True)
            return
        print(f"[{service.seconds:5.1f} s] ready\n", file=sys.stderr)
        print(f"  API     {service.url}/v1   (OpenAI; model {service.model!r})")
        print(f"  path    {PATHS[service.data_path]}")
        print(f"  cache   {service.cache}")
        print(f"  logs    {service.logs}")
        command = "hybridserve" if shutil.which("hybridserve") else sys.argv[0]
        first = settings.telemetry.metrics_port
        ports = f"; the port of each replica: {command} top --port {first}" if first else ""
        print(f"  metrics {service.url}/metrics, of one replica{ports}")
        print(f"  Grafana {command} dashboards export --out dashboards")
        print(f"\nTo try, in another terminal{', with one of your API keys as $KEY' if keyed else ''}:")
        for name, command in to_try(service.url, service.model, service.tools, keyed).items():
            print(f"\n  # {name}\n  {command}")
        print("\nPress Ctrl-C to stop it.", flush=True)

    keyed = "inference" not in settings.access.scopes_without_key(settings.server.profile)
    progress = Progress(report)
    serve(settings, progress, ready)


def to_try(url: str, model: str, tools: bool, keyed: bool = False) -> dict[str, str]:
    """Shell commands for a service that is ready: a chat, a tool call if the engine parses them, and the plan.

    `keyed`: the service has API keys, and the shell variable KEY is one of them.
    """
    key = '-H "Authorization: Bearer $KEY" ' if keyed else ""

    def chat(question: str, **more: object) -> str:
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": question}], **more})
        quoted = shlex.quote(body)
        return f"curl -s {url}/v1/chat/completions {key}-H 'Content-Type: application/json' -d {quoted}"

    commands = {"a chat": chat("What is this?")}
    if tools:
        question = "What is the weather in Oslo?"
        commands["a tool call"] = chat(question, tools=[{"type": "function", "function": WEATHER}])
    return {**commands, "the plan, and what the engine reports": f"curl -s {key}{url}/plan"}
