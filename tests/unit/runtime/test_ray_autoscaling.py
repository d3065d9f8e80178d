"""The adapter with Ray Serve's own types, and the engine statistics with vLLM's field names."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from hybridserve.autoscaling.capacity import UNLIMITED_PREFILL, ReplicaCapacity
from hybridserve.autoscaling.replica_metrics import PREFIX, ReplicaMetrics, metrics_from_numbers
from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.engine.stats import EngineStatsLogger
from hybridserve.runtime import ray_autoscaling as scaling_policy
from hybridserve.runtime.ray_autoscaling import RayAutoscalingPolicy, autoscaling_options, fleet_metrics
from hybridserve.settings.scaling import ScalingSection
from hybridserve.settings.slo import LatencySLO

CAPACITY = ReplicaCapacity(16, 166, 1312, 7, 1, UNLIMITED_PREFILL)


def context(now: float, replicas: dict[str, ReplicaMetrics], target: int = 1, **changes: Any) -> SimpleNamespace:
    series: dict[str, dict[str, list[SimpleNamespace]]] = {}
    for replica, metrics in replicas.items():
        for name, value in metrics.numbers().items():
            points = [SimpleNamespace(timestamp=now - 3, value=-1), SimpleNamespace(timestamp=now - 0.5, value=value)]
            series.setdefault(PREFIX + name, {})[replica] = points
    values = {
        "current_time": now,
        "target_num_replicas": target,
        "running_replicas": list(replicas),
        "total_queued_requests": 0.0,
        "raw_metrics": series,
        "capacity_adjusted_min_replicas": 1,
        "capacity_adjusted_max_replicas": 4,
    }
    return SimpleNamespace(**(values | changes))


def options_of(section: ScalingSection) -> dict[str, Any]:
    return autoscaling_options(ScalingSpec(**section.model_dump(), capacity=CAPACITY))


def policy(**section: Any) -> RayAutoscalingPolicy:
    options = options_of(ScalingSection(max_replicas=4, start_up_s=10.0, **section))
    return RayAutoscalingPolicy(**json.loads(json.dumps(options["policy"]["policy_kwargs"])))


def test_context_becomes_fleet_metrics() -> None:
    seen = fleet_metrics(
        context(100.0, {"a": ReplicaMetrics("a", age_s=1.0, running=3, slot_seconds=2.5)}, total_queued_requests=2.4)
    )
    (metrics,) = seen.replicas
    assert (seen.now, seen.target, seen.ready, seen.queued) == (100.0, 1, 1, 2)
    assert (metrics.running, metrics.slot_seconds, metrics.age_s) == (3, 2.5, 1.5)


def test_incomplete_report_counts_as_missing_metrics() -> None:
    ray_context = context(100.0, {"a": ReplicaMetrics("a"), "b": ReplicaMetrics("b")})
    del ray_context.raw_metrics[PREFIX + "running"]["b"]
    seen = fleet_metrics(ray_context)
    assert seen.ready == 2
    assert [replica.replica for replica in seen.replicas] == ["a"]
    assert fleet_metrics(context(1.0, {}, raw_metrics=None)).replicas == ()


def test_scale_up_respects_limits_that_change_in_place() -> None:
    scaling = policy()
    full = ReplicaMetrics("a", running=16, waiting=100, blocks_used=128)
    assert scaling(context(1.0, {"a": full})) == (4, {})
    assert scaling(context(2.0, {"a": full}, capacity_adjusted_max_replicas=2)) == (2, {})


def test_dry_run_only_logs_the_decision(caplog: pytest.LogCaptureFixture) -> None:
    scaling = policy(dry_run=True)
    caplog.set_level("INFO", logger="hybridserve.autoscaling")
    assert scaling(context(1.0, {"a": ReplicaMetrics("a", running=16, waiting=100, blocks_used=128)}))[0] == 1
    assert scaling.last is not None
    assert scaling.last.replicas == 4
    (record,) = caplog.records
    fields = vars(record)
    assert (record.message, fields["from"], fields["to"], fields["cause"]) == ("scale_dry_run", 1, 4, "replica_limit")


@pytest.mark.parametrize(
    "broken",
    [
        {"raw_metrics": 5},
        {"current_time": None},
        {"running_replicas": None},
        {"capacity_adjusted_min_replicas": 9},
        {"total_queued_requests": "many"},
    ],
)
def test_errors_are_not_raised_into_the_controller(broken: dict[str, Any]) -> None:
    assert policy()(context(1.0, {"a": ReplicaMetrics("a")}, target=3, **broken)) == (3, {})


def test_error_of_a_lazy_metric_keeps_the_target() -> None:
    class Broken(SimpleNamespace):
        @property
        def raw_metrics(self) -> Any:
            raise RuntimeError("controller is busy")

    values = vars(context(1.0, {"a": ReplicaMetrics("a")}, target=2))
    del values["raw_metrics"]
    assert policy()(Broken(**values)) == (2, {})


@pytest.mark.parametrize("name", ["hybrid", "queue_length"])
def test_ray_accepts_autoscaling_options(name: str) -> None:
    config = pytest.importorskip("ray.serve.config", reason="ray is not in this environment")
    section = ScalingSection.model_validate({"min_replicas": 0, "max_replicas": 3, "policy": name})
    made = config.AutoscalingConfig(**options_of(section))
    assert (made.min_replicas, made.max_replicas) == (0, 3)
    if name == "hybrid":
        assert made.policy.get_policy().__name__ == "RayAutoscalingPolicy"
        assert made.policy.policy_kwargs["spec"]["capacity"] == asdict(CAPACITY)
    else:
        assert made.target_ongoing_requests == 12.0


def test_ray_runs_the_policy() -> None:
    """With Ray's own resolution and its wrapper for factors, delays and limits."""
    state = pytest.importorskip("ray.serve._private.autoscaling_state")
    policies = pytest.importorskip("ray.serve.autoscaling_policy")
    config = pytest.importorskip("ray.serve.config")
    made = config.AutoscalingConfig(**options_of(ScalingSection(max_replicas=4)))
    run = policies._apply_autoscaling_config(state._resolve_policy_callable(made.policy))
    ray_context = context(1.0, {"a": ReplicaMetrics("a", running=16, waiting=100, blocks_used=128)})
    ray_context.current_num_replicas, ray_context.config, ray_context.policy_state, ray_context.total_num_requests = (
        1,
        made,
        {},
        116,
    )
    assert run(ray_context)[0] == 4
    ray_context.current_num_replicas, ray_context.target_num_replicas, ray_context.running_replicas = 0, 0, []
    assert run(ray_context)[0] == 1


def step(running: int = 0, waiting: int = 0, skipped: int = 0, usage: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(
        num_running_reqs=running, num_waiting_reqs=waiting, num_skipped_waiting_reqs=skipped, kv_cache_usage=usage
    )


def iteration(
    generated: int = 0, preempted: int = 0, finished: list[tuple[int, float]] | None = None
) -> SimpleNamespace:
    done = [
        SimpleNamespace(
            request_id="chatcmpl-a",
            num_prompt_tokens=prompt,
            num_generation_tokens=9,
            queued_time=2 * time,
            prefill_time=time,
            inference_time=time,
            mean_time_per_output_token=0.0,
        )
        for prompt, time in finished or []
    ]
    return SimpleNamespace(num_generation_tokens=generated, num_preempted_reqs=preempted, finished_requests=done)


class TestEngineStats:
    def stats(self) -> EngineStatsLogger:
        self.now, self.open = 0.0, 1
        slo = LatencySLO(ttft_s=2.0)
        return EngineStatsLogger(CAPACITY, unfinished=lambda: self.open, slo=slo, clock=lambda: self.now)

    def test_counts(self) -> None:
        stats = self.stats()
        stats.record(step(running=2, waiting=1, usage=16 / 166), iteration(generated=2))
        stats.record(
            step(running=2, waiting=0, skipped=1), iteration(generated=2, preempted=1, finished=[(100, 1.5), (0, 0.5)])
        )
        self.now = 4.0
        metrics = stats.metrics("r")
        assert (metrics.running, metrics.waiting, metrics.deferred) == (2, 0, 1)
        assert (metrics.arrived, metrics.finished, metrics.generated, metrics.preemptions) == (5, 2, 4, 1)
        assert (metrics.prompt_tokens, metrics.prompt_squares, metrics.slot_seconds) == (100, 10_000.0, 2.0)
        assert metrics.late == 1
        assert metrics.age_s == 4.0

    def test_refused_request_is_demand_and_late(self) -> None:
        stats = self.stats()
        stats.count_refused()
        metrics = stats.metrics()
        assert (metrics.arrived, metrics.finished, metrics.late) == (1, 0, 1)

    def test_state_blocks_are_separated_from_attention_blocks(self) -> None:
        stats = self.stats()
        stats.record(step(running=4, usage=40 / 166), None)
        metrics = stats.metrics()
        assert (metrics.blocks_used, metrics.state_blocks_used) == (40, 28)

    def test_idle_engine_has_fresh_metrics(self) -> None:
        stats = self.stats()
        stats.record(step(running=1, usage=0.1), iteration(generated=1))
        self.now, self.open = 100.0, 0
        assert (stats.metrics().running, stats.metrics().blocks_used, stats.metrics().age_s) == (0, 0, 0.0)
        self.open = 1
        assert stats.metrics().age_s == 100.0

    def test_abort_does_not_undo_an_arrival(self) -> None:
        stats = self.stats()
        stats.record(step(running=3), None)
        stats.record(step(running=1), None)
        stats.record(step(running=2), None)
        assert stats.metrics().arrived == 4

    def test_numbers_round_trip(self) -> None:
        stats = self.stats()
        stats.record(step(running=2, waiting=3), iteration(generated=2))
        numbers = stats.numbers()
        assert all(isinstance(value, (int, float)) for value in numbers.values())
        back = metrics_from_numbers("r", {name.removeprefix(PREFIX): value for name, value in numbers.items()})
        assert back == stats.metrics("r")

    def test_fields_exist_in_the_installed_vllm(self) -> None:
        vllm_stats = pytest.importorskip("vllm.v1.metrics.stats", reason="vllm is not in this environment")
        stats = self.stats()
        done = vllm_stats.FinishedRequestStats(finish_reason=None, num_prompt_tokens=7, inference_time=0.5)
        during = vllm_stats.IterationStats()
        during.finished_requests.append(done)
        stats.record(vllm_stats.SchedulerStats(num_running_reqs=1), during, mm_cache_stats=None, engine_idx=0)
        assert (stats.metrics().arrived, stats.metrics().prompt_tokens) == (2, 7)

    def test_sizes_are_found_by_the_request_id_of_the_client(self) -> None:
        vllm_stats = pytest.importorskip("vllm.v1.metrics.stats", reason="vllm is not in this environment")
        stats = self.stats()
        during = vllm_stats.IterationStats()
        for ident, prompt, output in (("chatcmpl-a-b", 7, 2), ("cmpl-c-d-0", 5, 3), ("cmpl-c-d-1", 6, 4)):
            during.finished_requests.append(
                vllm_stats.FinishedRequestStats(
                    None, request_id=ident, num_prompt_tokens=prompt, num_generation_tokens=output
                )
            )
        stats.record(None, during)
        assert [stats.take_size(ident) for ident in ("a-b", "a-b", "c-d", "other")] == [(7, 2), None, (11, 7), None]

    def test_implements_vllm_stat_logger(self) -> None:
        loggers = pytest.importorskip("vllm.v1.metrics.loggers", reason="vllm is not in this environment")
        for name in loggers.StatLoggerBase.__abstractmethods__ - {"__init__"}:
            assert callable(getattr(EngineStatsLogger, name))


def test_clock_moved_backwards_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Ray's waits use the wall clock. Small corrections and jumps ahead are not reported."""
    scaling, wall = policy(), 1e9
    monkeypatch.setattr(scaling_policy.time, "monotonic", lambda: 50.0)
    for step in (1.0, 7200.0, -4.0, 0.5, -86400.0):
        assert "clock_moved_backwards" not in caplog.text
        wall += step
        monkeypatch.setattr(scaling_policy.time, "time", lambda now=wall: now)
        scaling(context(1.0, {"a": ReplicaMetrics("a")}))
    (record,) = caplog.records
    assert (record.message, vars(record)["seconds"]) == ("clock_moved_backwards", 86400)
