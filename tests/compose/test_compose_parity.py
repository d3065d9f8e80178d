"""One configuration everywhere: the engine arguments of `make serve`, compose, and the chart's two modes are equal.

For each outlet the settings are taken from what it really starts (the Makefile's command, the service's command and
mounted file, the rendered objects), and `hybridserve render vllm`, which prints what `serve` would use, reads them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_file import ROOT, services, settings_file

from hybridserve.catalog.licenses import model_license
from hybridserve.cli import main

CHART_TESTS = ROOT / "tests" / "chart"


def rendered(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["render", "vllm", *words, "--json"])
    assert ended.value.code == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.fixture
def arguments(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    return lambda *words: rendered(capsys, *words)


def make_serve() -> list[str]:
    """The words after `hybridserve serve` in the Makefile, at its defaults."""
    makefile = (ROOT / "Makefile").read_text()
    (command,) = re.findall(r"^\t@exec \$\(BIN\)/hybridserve serve (.*)$", makefile, flags=re.MULTILINE)
    (default,) = re.findall(r"^SERVE_ARGS \?=(.*)$", makefile, flags=re.MULTILINE)
    return shlex.split(command.replace("$(SERVE_ARGS)", default.strip()))


def image_command(name: str) -> list[str]:
    """What an image starts when nothing is said: the words after `serve` of its CMD."""
    text = (ROOT / "deploy" / name).read_text()
    words = json.loads(re.findall(r"^CMD (\[.*\])$", text, flags=re.MULTILINE)[-1])
    assert words[0] == "serve"
    return [word for word in words[1:] if word not in ("--host", "0.0.0.0")]


def test_make_serve_image_and_compose(arguments: Callable[..., dict[str, Any]]) -> None:
    wanted = arguments(*make_serve())
    assert wanted["model"].endswith("demo_model")
    assert wanted["kv_cache_memory_bytes"] > 0
    assert arguments(*image_command("Dockerfile.cpu")) == wanted
    assert arguments("-c", str(settings_file(services()["demo"]))) == wanted


def test_an_environment_of_a_service_sets_nothing_else() -> None:
    """The environment would win over the mounted file without showing in it."""
    for service in services().values():
        assert not [name for name in service.get("environment", {}) if name.startswith("HYBRIDSERVE_")]
    for file in sorted((ROOT / "deploy").glob("Dockerfile.*")):
        assert not re.search(r"HYBRIDSERVE_[A-Z]+__", file.read_text()), file.name


def test_gpu_is_the_catalogue_s_plan(arguments: Callable[..., dict[str, Any]]) -> None:
    file = settings_file(services()["gpu"])
    named = yaml.safe_load(file.read_text())
    inside = arguments("-c", str(file))
    # The commit that `fetch` brings to the volume: the service itself is offline.
    known = model_license(named["model"]["id"])
    assert known is not None
    assert inside.pop("revision") == known.revision
    assert inside == arguments(named["model"]["id"], "--gpu", named["accelerator"]["name"])


@pytest.mark.chart
@pytest.mark.parametrize("mode", ["standalone", "rayservice"])
def test_chart(
    mode: str, arguments: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(CHART_TESTS))
    from chart_helm import HELM_3, HELM_4, chart_tools, template
    from test_chart_parity import settings_in

    chart_tools.fetch()
    # The cluster's own token has no default, and no bearing on the engine.
    values = {"mode": mode, **({"ray": {"token": {"existingSecret": "token"}}} if mode == "rayservice" else {})}
    for binary in (HELM_3, HELM_4):
        inside = tmp_path / "hybridserve.yaml"
        inside.write_text(yaml.safe_dump(settings_in(template(values, binary=binary))))
        assert arguments("-c", str(inside)) == arguments(*make_serve())
