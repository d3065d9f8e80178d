"""The commands of documentation blocks, as a test carries them out. Run as `doc_commands.py COMMAND ARGUMENT...`.

`hybridserve` runs for real, with only those packages that the page's install step brings. Without a server, `serve`
ends after the plan, and a load test goes to the mock server for a second. What the block says that it needs
(DOC_NEEDS) is checked as far as possible: options, files, targets, profiles. Every other command is an error.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

NEEDS = set(os.environ.get("DOC_NEEDS", "").split())
STATE = Path(os.environ.get("DOC_STATE", "state.json"))
"""The lock that is installed, and the extras."""


PARSED = {
    **{"check": "server", "top": "server", "cache": "server", "autoscale": "cluster"},
    **{"fetch": "hub", "simulate": "minutes", "verify": "server"},
}
"""Verbs of which a test only parses the arguments, and what they need; of `check`, only with --live."""
# Results, not errors: a check that refuses the profile, a machine that cannot serve, an SLO missed on a busy machine.
RESULTS = {"check": {1}, "doctor": {1}, "loadtest": {1, 3}}


def fail(text: str) -> NoReturn:
    sys.exit(f"documentation: {text}")


def require(*names: str) -> None:
    """The block must say that it needs one of these."""
    if not NEEDS & set(names):
        fail(f"{' '.join(sys.argv[1:3])} needs {' or '.join(names)}: put <!-- needs: {names[0]} --> before the block")


def exists(name: str) -> None:
    if not Path(name).exists():
        fail(f"{name} does not exist: nothing on the page creates it")


def state(**changes: Any) -> dict[str, Any]:
    """What is installed, after a change."""
    known: dict[str, Any] = json.loads(STATE.read_text()) | changes
    if changes:
        STATE.write_text(json.dumps(known))
    return known


def hide_packages() -> None:
    """Make the packages that are not installed at this point of the page impossible to import."""
    installed = state()
    if installed["lock"] is None:
        fail("hybridserve is not installed yet: the page names no install step before this command")
    hidden = set(json.loads(os.environ["DOC_HIDDEN"])[installed["lock"]])

    class Hidden:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name in hidden:
                raise ModuleNotFoundError(f"No module named {name!r} (lock {installed['lock']})", name=name)

    sys.meta_path.insert(0, Hidden)  # type: ignore[arg-type]


def hybridserve(argv: list[str]) -> None:
    hide_packages()
    from hybridserve.cli import main

    verb = argv[0] if argv else ""
    if verb == "serve":
        find_spec("ray")  # the install step of the page must bring it
        sys.modules["hybridserve.runtime.serve"] = only_planned()
    elif verb == "loadtest" and "server" in NEEDS:
        parse_only()
    elif verb == "loadtest" and "--list" not in argv:
        argv = [*argv, "--url", os.environ["DOC_MOCK"], "--model", "mock", "--seconds", "0.5", "--level", "2"]
    elif (verb == "check" and "--live" in argv) or (verb in PARSED and verb != "check" and "--list" not in argv):
        require(PARSED[verb])
        parse_only()
    try:
        main(argv)
    except SystemExit as ended:
        sys.exit(0 if ended.code in RESULTS.get(verb, ()) else ended.code)


def only_planned() -> ModuleType:
    """`hybridserve.runtime.serve` up to the plan."""
    from hybridserve.deployment.resolve import resolve_deployment

    module: Any = ModuleType("hybridserve.runtime.serve")
    module.Progress, module.Ready = lambda *_: None, object
    module.serve = lambda settings, *_: resolve_deployment(settings)
    return module  # type: ignore[no-any-return]


def parse_only() -> None:
    """Commands parse their arguments and read their settings, and do nothing else."""
    from typer.core import TyperCommand

    from hybridserve.settings import load

    def invoke(_: Any, context: Any) -> None:
        if context.params.get("config"):
            load(context.params["config"], context.params.get("assign") or ())

    (command,) = [base for base in TyperCommand.__mro__ if base.__name__ == "Command"]
    command.invoke = invoke  # type: ignore[attr-defined]


def make(argv: list[str]) -> None:
    variables = dict(word.split("=", 1) for word in argv if "=" in word)
    targets = [word for word in argv if "=" not in word]
    dry = subprocess.run(["/usr/bin/make", "-n", *argv], capture_output=True, text=True)
    if dry.returncode:
        fail(f"make {' '.join(argv)}: {dry.stderr}")
    development = re.search(r"^DEV := (.*?[^\\])$", Path("Makefile").read_text(), re.MULTILINE | re.DOTALL)
    assert development is not None
    for target in targets:
        locked = "dev" if target in development[1].split() else variables.get("LOCK", "cpu")
        locked = "base" if target == "images" else locked
        if target == "install" or state()["lock"] is None:
            state(lock=locked)
        if target == "images":
            require("docker")
            from release import chart_values  # scripts/release.py

            image = f"{variables['REGISTRY']}/hybridserve@sha256:{'ab' * 32}"
            Path("dist").mkdir(exist_ok=True)
            Path("dist/images-gpu.yaml").write_text(chart_values(image, image))


def pip(argv: list[str]) -> None:
    require("index")
    pyproject = Path("pyproject.toml").read_text()
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(argv)):
        for name in extra.split(","):
            if not re.search(rf"^{name} = \[", pyproject, re.MULTILINE):
                fail(f"hybridserve has no extra {name}")
    if "hybridserve" in " ".join(argv):
        state(lock="base" if state()["lock"] is None else state()["lock"])


def docker(argv: list[str]) -> None:
    require("docker")
    import yaml

    services = yaml.safe_load(Path("docker-compose.yml").read_text())["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    for flag, value in pairwise(argv):
        if flag == "--profile" and value not in profiles:
            fail(f"docker-compose.yml has no profile {value}")
        if flag in ("-f", "--file"):
            exists(value)
        if flag == "--target" and f" AS {value}\n" not in Path(argv[argv.index("-f") + 1]).read_text():
            fail(f"the Dockerfile has no target {value}")
    if argv[:1] == ["compose"]:
        rest = [word for word in argv[1:] if word in ("build", "run")]
        if rest and not set(services) & set(argv):
            fail(f"docker-compose.yml has no service of {argv}")


def hf(argv: list[str]) -> None:
    """A download of config.json: the folder then has that of a model of the same family."""
    require("hub")
    from hybridserve.catalog.models import resolve_model

    verb, _, name, option, folder = argv
    if (verb, name, option) != ("download", "config.json", "--local-dir"):
        fail(f"hf {' '.join(argv)}")
    Path(folder).mkdir()
    config = resolve_model("falcon-h1-7b-instruct").config
    Path(folder, name).write_text(json.dumps(config))


def helm(argv: list[str]) -> None:
    if argv[0] != "template":
        require("cluster")
    for flag, value in pairwise(argv):
        if flag in ("--values", "-f"):
            exists(value)
    charts = [word for word in argv[1:] if word.startswith(("helm/", "./"))]
    for chart in charts:
        exists(chart)


def kubectl(argv: list[str]) -> None:
    require("cluster")
    for word in argv:
        if word.startswith("--from-file="):
            exists(word.rpartition("=")[2])
    if "-" in argv:
        sys.stdin.read()


def curl(argv: list[str]) -> None:
    require("server")
    body = argv[argv.index("-d") + 1] if "-d" in argv else "{}"
    json.loads(body)


def prometheus(argv: list[str]) -> None:
    require("prometheus")
    exists(argv[0].removeprefix("--config.file="))


def locust(argv: list[str]) -> None:
    require("server")
    exists(argv[argv.index("-f") + 1])


def bench(argv: list[str]) -> None:
    """vLLM and other load tests: each option of `vllm serve` and `vllm bench` occurs in vLLM's source."""
    require("server")
    if sys.argv[1] != "vllm":
        return
    parts = ("benchmarks",) if argv[0] == "bench" else ("config", "engine", "entrypoints")
    source = "".join(path.read_text() for part in parts for path in (Path(os.environ["DOC_VLLM"]) / part).rglob("*.py"))
    for flag in [word for word in argv if word.startswith("--")]:
        if f'"{flag}"' not in source and f"\n    {flag[2:].replace('-', '_')}: " not in source:
            fail(f"vllm {argv[0]} has no option {flag}")


def python(argv: list[str]) -> None:
    require("index")
    if argv[:2] != ["-m", "venv"]:
        fail(f"python3 {argv}")


RUN: dict[str, Callable[[list[str]], None]] = {
    **{
        "hybridserve": hybridserve,
        "make": make,
        "pip": pip,
        "python3": python,
        "docker": docker,
        "hf": hf,
        "helm": helm,
        "kubectl": kubectl,
    },
    **{"kind": kubectl, "curl": curl, "prometheus": prometheus, "locust": locust},
    **{"vllm": bench, "guidellm": bench, "aiperf": bench},
}

if __name__ == "__main__":
    RUN[sys.argv[1]](sys.argv[2:])
