"""Contract: the private names of vLLM 0.29 that `engine.patches.vllm` and `engine.preload` use mean the same."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

import hybridserve
from hybridserve.engine.preload import inline_worker_flags
from hybridserve.settings import load

pytestmark = pytest.mark.engine


def test_executor_is_found_by_its_name_on_the_command_line() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    from hybridserve.engine.patches.vllm import InlineExecutor

    flags = inline_worker_flags(load(environ={}).settings)
    parsed = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(flags)
    assert resolve_obj_by_qualname(parsed.distributed_executor_backend) is InlineExecutor
    assert hasattr(UniProcExecutor, "_init_executor")
    assert inline_worker_flags(load(assignments=["engine.tensor_parallel_size=2"], environ={}).settings) == []


def test_engine_core_is_created_with_the_replaced_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager of core processes takes its context from the name that the patch replaces, when it is created."""
    from vllm.v1.engine import utils

    from hybridserve.engine.patches.vllm import core_from_forkserver

    class Requested(Exception):
        pass

    original = utils.get_mp_context
    with core_from_forkserver():
        assert utils.get_mp_context().get_start_method() == "forkserver"
    assert utils.get_mp_context is original

    def requested() -> None:
        raise Requested

    monkeypatch.setattr(utils, "get_mp_context", requested)
    parameters = inspect.signature(utils.CoreEngineProcManager.__init__).parameters
    arguments = {name: MagicMock() for name in parameters if name != "self"}
    with pytest.raises(Requested):
        utils.CoreEngineProcManager(**arguments)


def test_preloaded_openmp_library_is_the_one_vllm_preloads() -> None:
    """vLLM's platform code changes LD_PRELOAD as it configures an engine: after ours has run, there is nothing left."""
    code = (
        "import os\n"
        "from hybridserve.engine import preload\n"
        "if {ours}: preload._preload_openmp()\n"
        "from vllm.engine.arg_utils import EngineArgs\n"
        "EngineArgs(model={model!r}, enforce_eager=True).create_engine_config()\n"
        "print(os.environ.get('LD_PRELOAD', ''))\n"
    )
    model = str(Path(hybridserve.__file__).parent / "demo_model")
    environ = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    found = []
    for ours in (True, False):
        run = subprocess.run(
            [sys.executable, "-c", code.format(ours=ours, model=model)],
            env=environ, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-2000:]
        found.append({part for part in run.stdout.splitlines()[-1].split(":") if "omp" in part})
    assert found[0] == found[1]
    assert found[0]


def test_finished_requests_are_reported_with_their_tokens() -> None:
    """The hook on vLLM's own output processor, which gets what the engine core would send."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
    from vllm.v1.engine.output_processor import OutputProcessor
    from vllm.v1.metrics.stats import IterationStats, PrefillStats

    from hybridserve.engine.patches.vllm import on_finished

    processor, seen = OutputProcessor(None, log_stats=True), []
    on_finished(SimpleNamespace(output_processor=processor), lambda *request: seen.append(request))
    for name, salt in (("a", "key"), ("b", None)):
        params = SamplingParams(max_tokens=2, detokenize=False)
        request = EngineCoreRequest(name, [1, 2, 3], None, params, None, 0.0, None, salt, None)
        request.external_req_id = name
        processor.add_request(request, None)
    prefill = PrefillStats(num_prompt_tokens=3, num_cached_tokens=2)
    steps = [
        [EngineCoreOutput("a", [4], prefill_stats=prefill), EngineCoreOutput("b", [6])],
        [EngineCoreOutput("a", [5], finish_reason=FinishReason.LENGTH)],
        [EngineCoreOutput("b", [7], finish_reason=FinishReason.LENGTH)],
    ]
    for step in steps:
        processor.process_outputs(step, 1.0, IterationStats())
    assert [(list(prompt), list(output), *rest) for prompt, output, *rest in seen] == [
        ([1, 2, 3], [4, 5], 2, "key"),
        ([1, 2, 3], [6, 7], 0, ""),
    ]
