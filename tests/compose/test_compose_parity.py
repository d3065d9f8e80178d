"""`make serve`, the CPU image, compose and the chart start the same engine arguments.

The settings are taken from what each really starts (the Makefile's command, the image's CMD, the service's command and
mounted file); `hybridserve render vllm` prints the arguments that `serve` would use with them.
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
    """The words after `serve` in an image's CMD."""
    text = (ROOT / "deploy" / name).read_text()
    words = json.loads(re.findall(r"^CMD (\[.*\])$", text, flags=re.MULTILINE)[-1])
    assert words[0] == "serve"
    return [word for word in words[1:] if word not in ("--host", "0.0.0.0")]


def test_image_and_compose_equal_make_serve(arguments: Callable[..., dict[str, Any]]) -> None:
    expected = arguments(*make_serve())
    assert expected["model"].endswith("demo_model")
    assert expected["kv_cache_memory_bytes"] > 0
    assert arguments(*image_command("Dockerfile.cpu")) == expected
    assert arguments("-c", str(settings_file(services()["demo"]))) == expected


def test_no_environment_variable_sets_a_setting() -> None:
    """It would override the mounted file."""
    for service in services().values():
        assert not [name for name in service.get("environment", {}) if name.startswith("HYBRIDSERVE_")]
    for file in sorted((ROOT / "deploy").glob("Dockerfile.*")):
        assert not re.search(r"HYBRIDSERVE_[A-Z]+__", file.read_text()), file.name


def test_gpu_settings_equal_the_plan_of_the_catalog(arguments: Callable[..., dict[str, Any]]) -> None:
    file = settings_file(services()["gpu"])
    named = yaml.safe_load(file.read_text())
    inside = arguments("-c", str(file))
    # The commit that `fetch` downloads into the volume: the service itself is offline.
    known = model_license(named["model"]["id"])
    assert known is not None
    assert inside["revision"] == known.revision
    assert inside == arguments(named["model"]["id"], "--gpu", named["accelerator"]["name"])


def test_chart_defaults_equal_make_serve(arguments: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """tests/chart/test_chart_parity.py compares what the chart renders; here its default settings."""
    values = yaml.safe_load((ROOT / "helm/hybridserve/values.yaml").read_text())
    file = tmp_path / "hybridserve.yaml"
    file.write_text(yaml.safe_dump(values["settings"]))
    assert arguments("-c", str(file)) == arguments(*make_serve())
