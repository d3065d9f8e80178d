"""`hybridserve autoscale`."""

from __future__ import annotations

import signal
from functools import partial
from threading import Event
from typing import Annotated

import typer

from hybridserve.cli.options import Assignments, ConfigFile, read_settings
from hybridserve.errors import EnvironmentFault

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def autoscale(
    pods: Annotated[str, typer.Option(metavar="NAME", help="Headless Service of the pods, ready or not.")],
    config: ConfigFile = None,
    assign: Assignments = None,
    pods_port: Annotated[
        int | None, typer.Option(help="Metrics port of each pod. Default: telemetry.metrics_port.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind.")] = 8080,
) -> None:
    """Serve the number of pods that the scaling policy wants, for KEDA or a HorizontalPodAutoscaler.

    Example: hybridserve autoscale -c hybridserve.yaml --pods assistant-pods
    """
    from hybridserve.deployment.resolve import resolve_deployment
    from hybridserve.observability.logging import configure
    from hybridserve.runtime.pod_autoscaler import PodAutoscaler, pod_addresses

    settings = read_settings(config, assign).settings
    scaling = resolve_deployment(settings).scaling
    assert scaling is not None
    configure(settings.telemetry)
    find = partial(pod_addresses, pods, pods_port or settings.telemetry.metrics_port)
    scaler = PodAutoscaler(scaling, find, settings.server.ready_timeout_s)
    try:
        scaler.listen(host, port)
    except OSError as error:
        raise EnvironmentFault("--port", f"{host}:{port} is not free: {error}", "use another port") from None
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    scaler.run(stopped)
