"""Helm as a subprocess: the pinned binaries, no plug-ins, no cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "hybridserve"
Object = dict[str, Any]


def _chart_tools() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chart_tools", ROOT / "scripts" / "chart_tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


chart_tools = _chart_tools()
HELM_3: Path = chart_tools.HELM_3
HELM_4: Path = chart_tools.HELM_4
KUBECTL: Path = chart_tools.KUBECTL


class HelmError(Exception):
    """Helm refused; the message is its standard error."""


def helm(*words: str, binary: Path = HELM_4, stdin: str | None = None) -> str:
    """Run helm, give its standard output.

    Raises:
        HelmError: it exited with another status than 0.
    """
    # Nothing of the developer's own helm (repositories, plug-ins, kubeconfig) may change a result.
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "HELM_NO_PLUGINS": "1"}
    ran = subprocess.run([binary, *words], input=stdin, capture_output=True, text=True, env=environment)
    if ran.returncode != 0:
        raise HelmError(ran.stderr + ran.stdout)
    return ran.stdout


def template(
    values: Mapping[str, Any] | None = None,
    *options: str,
    files: Iterable[Path] = (),
    release: str = "demo",
    namespace: str = "serving",
    kube_version: str = "1.33.0",
    binary: Path = HELM_4,
    chart: Path = CHART,
) -> list[Object]:
    """Objects of one release, hooks and tests included."""
    words = ["template", release, str(chart), "--namespace", namespace, "--kube-version", kube_version]
    words += [part for file in files for part in ("--values", str(file))]
    if values is not None:
        words += ["--values", "-"]
    return parse(_rendered((*words, *options), binary, json.dumps(values) if values is not None else None))


@cache
def _rendered(words: tuple[str, ...], binary: Path, stdin: str | None) -> str:
    """Output of `helm template`; many tests render the same values."""
    return helm(*words, binary=binary, stdin=stdin)


def parse(text: str) -> list[Object]:
    """The objects of a rendered stream."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def only(objects: Iterable[Object], kind: str, name: str | None = None) -> Object:
    """The one object of this kind (and name)."""
    found = [one for one in objects if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]
