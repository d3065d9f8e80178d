"""The `hybridserve simulate` command."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from hybridserve.cli.app import main
from hybridserve.gateway.auth.routes import _TABLE
from hybridserve.settings.scaling import ScalingSection
from hybridserve.simulator.traffic import TRAFFIC_PATTERNS, Lengths
from hybridserve.simulator.tune import ABOUT, POLICIES

TRACE = "time,prompt,output\n" + "".join(f"{index * 0.7:.1f},200,60\n" for index in range(300))


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    return str(file)


def run(*argv: str) -> int:
    try:
        main(["simulate", *argv])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_json_of_two_policies(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trace", trace, "--policy", "hybrid,fixed", "--tune", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in result["trials"]] == ["hybrid", "fixed"]
    assert result["requests"] == 300
    assert result["kind"] == "bound"
    assert 0 <= result["trials"][0]["attainment"] <= 1


def test_costs_at_a_price(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--trace", trace, "--policy", "fixed", "--tune", "--price", "2", "--refuse-late")
    assert run(*options, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["trials"]
    assert row["cost"] == pytest.approx(2 * row["replica_hours"])
    assert row["cost_per_million_good_tokens"] == pytest.approx(row["cost"] / row["good_tokens"] * 1e6)
    assert row["good_tokens"] == 300 * 60
    assert run(*options) == 0
    assert {"cost", "refused"} <= set(capsys.readouterr().out.replace("┃", " ").split())


def test_table_marks_bounds(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trace", trace, "--policy", "hybrid") == 0
    out = capsys.readouterr().out
    assert re.search(r"^│ hybrid +│", out, re.MULTILINE)
    assert "bounds from the data sheet" in out


def test_requests_without_tokens_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "2026-11-27T10:00:0{}.500Z info hybridserve.access event=request key={} status={} ms=5{}"
    counts = " prompt_tokens=5 output_tokens=2"
    lines = [line.format(0, "a", 200, counts), line.format(1, "a", 200, counts)]
    lines += [line.format(2, "a", 499, " prompt_tokens=- output_tokens=-"), line.format(3, "a", 499, ""),
              line.format(4, "a", 200, ""), line.format(5, "canary", 200, ""), "another line"]  # fmt: skip
    log = tmp_path / "access.log"
    log.write_text("\n".join(lines) + "\n")
    options = ("--trace", str(log), "--policy", "fixed")
    assert run(*options) == 0
    said = capsys.readouterr().out
    assert "2 requests in" in said
    assert "left out of the trace: 3 requests (2 status 499, 1 without output tokens)" in said
    assert run(*options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {"status 499": 2, "without output tokens": 1}


def test_requests_of_routes_that_generate_nothing_are_no_traffic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list of models or a scrape of metrics needs no capacity of a replica."""
    line = "2026-11-27T10:00:0{}.500Z info hybridserve.access event=request key=a route={} status={} ms=5 {}"
    counts, none = "prompt_tokens=5 output_tokens=2", "prompt_tokens=- output_tokens=-"
    generating = [route.name for route in _TABLE.values() if route.format is not None]
    lines = [line.format(0, "chat", 200, counts), line.format(1, "messages", 200, counts)]
    lines += [line.format(2, route, status, none) for route in generating for status in (200, 499)]
    others = {route.name for route in _TABLE.values()} - set(generating) | {"other", "/tokenize"}
    lines += [line.format(3, route, status, none) for route in sorted(others) for status in (200, 404, 503)]
    lines.append(json.dumps({"time": "2026-11-27T10:00:04.5Z", "level": "info", "logger": "hybridserve.access",
                             "event": "request", "route": "models", "status": 200, "ms": 5}))  # fmt: skip
    log = tmp_path / "access.log"
    log.write_text("\n".join(lines) + "\n")
    assert run("--trace", str(log), "--policy", "fixed", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == 2
    assert found["left_out"] == {"status 499": 4, "without output tokens": 4}
    assert {"models", "ready", "plan", "compliance", "metrics"} <= others


def test_constant_number_is_raised_until_the_goal_is_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bursts queue, which the computed demand does not: more than its peak is tried, up to --max and no further."""
    file = tmp_path / "bursts.csv"
    file.write_text("time,prompt,output\n" + "".join(f"{at},2000,4\n" for at in (0, 300) for _ in range(20)))
    options = ("--trace", str(file), "--policy", "fixed", "--ttft", "2.5", "--attainment", "0.55", "--json")

    def trials(*more: str) -> list[tuple[int, float]]:
        assert run(*options, "--ttft-per-1000", "0", *more) == 0
        rows = json.loads(capsys.readouterr().out)["trials"]
        return [(int(row["settings"].split()[0]), row["attainment"]) for row in rows]

    *less, enough = trials()
    assert enough[1] >= 0.55
    assert all(share < 0.55 for _, share in less)  # no more than needed is tried
    assert trials("--tune") == [enough]
    assert trials("--max", "6")[-1][0] == 6
    assert trials("--max", "6", "--tune")[0] == less[5]


def test_public_trace_without_output_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n1,5,2\n2,5,0\n3,5,2\n")
    assert run("--trace", str(file), "--policy", "fixed") == 0
    assert "left out of the trace: 1 request (1 without output tokens)" in capsys.readouterr().out


def test_equal_rows_are_one(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A fleet of one replica: no point of a grid differs, and the reason is said."""
    assert run("--trace", trace, "--policy", "oracle,keda-waiting", "--initial", "1", "--max", "1") == 0
    said = capsys.readouterr().out
    cells = [line.split("│")[1:3] for line in said.splitlines() if line.startswith("│")]
    assert [policy.strip() for policy, _ in cells if policy.strip()] == ["oracle", "keda-waiting"]
    settings = " ".join(" ".join(text for _, text in cells).split())
    assert settings == "packing 1.1, mean over 30 s, and 17 more threshold 0.25, window 60 s, and 7 more"
    assert "The fleet always has 1 replica" in said
    assert "policies cannot differ, set --max" in said
    assert run("--trace", trace, "--policy", "oracle", "--tune") == 0
    assert "The fleet always has" not in capsys.readouterr().out


def test_list_says_what_each_policy_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    about = {words[0]: words[1] for words in lines if len(words) == 2}
    assert all(len(about[name].split()) > 3 for name in POLICIES)


def test_this_packages_policy_has_the_name_of_the_settings() -> None:
    assert ScalingSection().policy == POLICIES[0]
    assert "scaling.policy: queue_length" in ABOUT["ray-queue-length"]


def test_chart_is_drawn(trace: str, tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    assert run("--trace", trace, "--policy", "hybrid", "--chart", str(chart), "--json") == 0
    assert chart.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        (["--workload", "nonsense"], "--workload"),
        (["--policy", "nonsense"], "--policy"),
        (["--calibration", "nonsense"], "--calibration"),
        (["--trace", "/no/such.csv"], "--trace"),
        (["--min", "5", "--max", "2"], "--min/--max"),
        (["--start-up", "0"], "--start-up"),
        (["--scale", "0"], "--scale"),
        (["--warm-up", "1e9"], "--warm-up"),
        (["--price", "-1"], "--price"),
        (["--max-ongoing", "0"], "--max-ongoing"),
        (["--warm-up", "-1"], "--warm-up"),
        (["--initial", "-1"], "--initial"),
        (["--initial", "9", "--max", "2"], "--initial"),
        (["--attainment", "1"], "--attainment"),
        (["--ttft-per-1000", "-1"], "--ttft-per-1000"),
        (["--rate", "0"], "--rate"),
        (["--rate", "0.00001"], "--rate"),
        (["--rate", "1", "--scale", "2"], "--scale"),
        (["--prompt", "many"], "--prompt"),
        (["--set", "scaling.min_replicas=3"], "scaling"),
        (["--set", "model.id=qwen3-8b"], "--gpu"),
        # The demo model's device has no data sheet.
        (["--set", "model.id=demo"], "--calibration"),
        (["--set", "model.id=demo", "--calibration", "nano-9b-a10g"], "--calibration"),
    ],
)
def test_invalid_options_are_refused(flags: list[str], where: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = [] if "--workload" in flags or "--trace" in flags else ["--workload", "nights"]
    assert run(*base, *flags, "--json") == 2
    assert json.loads(capsys.readouterr().out)["where"] == where


@pytest.fixture
def settings(tmp_path: Path) -> str:
    file = tmp_path / "hybridserve.yaml"
    file.write_text(
        "model: {id: nemotron-nano-9b-v2}\naccelerator: {name: l40s}\nengine: {max_num_seqs: 24}\n"
        "scaling: {min_replicas: 2, max_replicas: 3, start_up_s: 77, ttft_s: 5, attainment: 0.9}\n"
    )
    return str(file)


def test_settings_give_engine_bounds_and_goals(settings: str, trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-c", settings, "--trace", trace, "--policy", "hybrid,fixed") == 0
    out = capsys.readouterr().out
    assert "nemotron-nano-9b-v2 on l40s as planned, at most 24 sequences at once, starts in 77 s" in out
    assert "2 to 3 replicas; goals: first token in 5 s and 0 s for each 1000 prompt tokens" in out
    # The traffic needs one replica, and the fleet never has less than two.
    assert "2 replicas" in out
    assert "1 replica" not in out
    assert run("-c", settings, "--trace", trace, "--min", "1", "--ttft", "4", "--policy", "fixed") == 0
    out = capsys.readouterr().out
    assert "1 to 3 replicas; goals: first token in 4 s" in out
    assert "1 replica " in out


def test_requests_that_the_engine_refuses_are_counted(
    settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "long.csv"
    file.write_text("time,prompt,output\n0,900,100\n1,900,101\n2,3000,1\n")
    options = ("-c", settings, "--set", "engine.max_model_len=1000", "--trace", str(file), "--policy", "fixed")
    assert run(*options) == 0
    assert "2 requests longer than max_model_len, 1,000 tokens: the engine refuses" in capsys.readouterr().out
    assert run(*options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["too_long"] == 2
    assert run(*options, "--set", "engine.max_model_len=4000") == 0
    assert "longer than max_model_len" not in capsys.readouterr().out


def test_a_trace_of_one_time_is_refused_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "one.csv"
    file.write_text("time,prompt,output\n0,900,100\n0,800,100\n")
    assert run("--trace", str(file), "--policy", "fixed", "--json") == 2
    assert json.loads(capsys.readouterr().out)["where"] == f"--trace {file}"


def test_steps_of_a_calibration_with_the_planned_engine(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--set", "model.id=demo", "--calibration", "demo-cpu", "--trace", trace)
    assert run(*options, "--set", "engine.max_num_seqs=3") == 0
    out = capsys.readouterr().out
    assert "at most 3 sequences at once" in out
    assert "bounds from the data sheet" not in out


def test_rate_and_lengths_shape_a_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ("--prompt", "300", "--output", "20/80")
    assert run("--workload", "bursts", "--rate", "0.5", *lengths, "--policy", "fixed", "--json") == 0
    seconds = TRAFFIC_PATTERNS["bursts"].seconds
    assert json.loads(capsys.readouterr().out)["requests"] == pytest.approx(0.5 * seconds, rel=0.1)


@pytest.mark.parametrize("name", TRAFFIC_PATTERNS)
def test_mean_rate_of_a_pattern(name: str) -> None:
    pattern = TRAFFIC_PATTERNS[name]
    drawn = len(pattern.arrivals()) / pattern.seconds
    assert drawn == pytest.approx(pattern.mean_rate(), rel=0.1)


def test_lengths_have_the_quantiles_and_fit_the_context() -> None:
    source = random.Random(1)
    lengths = Lengths.from_quantiles((1000, 4000), (200, 200))
    drawn = sorted(lengths.draw(source)[0] for _ in range(4000))
    assert drawn[2000] == pytest.approx(1000, rel=0.1)
    assert drawn[3800] == pytest.approx(4000, rel=0.1)
    assert {lengths.draw(source)[1] for _ in range(10)} == {200}
    short = Lengths.from_quantiles((1000, 4000), (200, 1000), context=5000)
    assert max(sum(short.draw(source)) for _ in range(4000)) == 5000


@pytest.mark.parametrize("flag", ["--rate", "--prompt", "--workload"])
def test_a_trace_has_its_own_requests(flag: str, trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trace", trace, flag, "1", "--json") == 2
    said = json.loads(capsys.readouterr().out)
    assert said["where"] == flag
    assert said["fix"] == f"remove {flag}"
