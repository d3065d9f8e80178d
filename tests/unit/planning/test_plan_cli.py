"""`hybridserve plan`: output, options and errors."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest

from hybridserve.cli import main

NANO = "nemotron-nano-9b-v2"


def run(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["plan", *argv])
    assert caught.value.code in (0, None), capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["plan", *argv])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert [line.split(":")[0].strip() for line in said.splitlines()] == ["error", "what", "fix"]
    return said


@pytest.mark.parametrize(
    "argv",
    [
        ["plan", NANO, "--gpu", "a10g"],
        ["plan", "--list"],
        ["render", "vllm"],
        ["plan", NANO, "qwen3-8b", "--gpu", "l4"],
    ],
    ids=["plan", "list", "render", "compare"],
)
def test_offline_verbs_import_no_engine(argv):
    code = (
        "import json, sys; from hybridserve.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    heavy = {"torch", "vllm", "ray", "transformers", "numpy", "matplotlib", "fastapi", "starlette", "uvicorn", "rich"}
    assert not loaded & heavy


def test_render_says_that_the_engine_has_no_parser(capsys):
    with pytest.raises(SystemExit):
        main(["render", "vllm", NANO, "--gpu", "l40s"])
    printed = capsys.readouterr()
    assert printed.err.startswith("planned for prompt 2048/4096")
    assert "tool calls: UNKNOWN. vLLM has no parser" in printed.err
    assert "reasoning: nemotron_v3 reads the argument enable_thinking" in printed.err
    assert "--reasoning-parser nemotron_v3" in printed.out
    assert "--revision 6533e8de2c68e4536bf7c411d7a3ce5734111476" in printed.out
    assert "tool" not in printed.out


@pytest.mark.parametrize("verb", [["plan"], ["render", "vllm"], ["render", "helm"]], ids=" ".join)
def test_a_model_needs_a_device_that_somebody_named(verb, capsys):
    for argv, code in ((NANO,), 2), ((NANO, "--gpu", "cpu"), 0), (("demo",), 0):
        with pytest.raises(SystemExit) as ended:
            main([*verb, *argv])
        assert (ended.value.code or 0) == code
        printed = capsys.readouterr()
        assert ("--gpu cpu" in printed.err) == (code == 2)


def test_plan_init_and_render_choose_the_same_numbers(capsys, tmp_path):
    """For the same lengths of requests; and the plan of the file that `init` wrote has them too."""
    file = str(tmp_path / "hybridserve.yaml")
    asked = (NANO, "--gpu", "l40s", "--prompt", "1024/4096", "--output", "512/2048")
    chosen = {}
    for verb in (
        ("plan", *asked),
        ("init", *asked, "--out", file),
        ("render", "vllm", *asked),
        ("render", "helm", *asked),
    ):
        with contextlib.suppress(SystemExit):
            main([*verb, "--json"])
        found = json.loads(capsys.readouterr().out)
        chosen[verb[:2]] = found.get("engine_args", found.get("settings", {}).get("engine", found))
    with contextlib.suppress(SystemExit):
        main(["plan", "-c", file, "--json"])
    chosen["file",] = json.loads(capsys.readouterr().out)["engine_args"]
    numbers = [
        tuple(args.get(name) for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len"))
        for verb, args in chosen.items()
        if verb[0] != "init"
    ]
    assert numbers == [(88, 2712, 131072)] * 4


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "48 GB, as PyTorch reports it"),
        (("--memory-gib", "48"), "more than the 44.52 GiB that PyTorch reports of NVIDIA L40S"),
        ((), "decode batches are captured in multiples of 8"),
        (("--goal", "latency"), "51 requests of 8,192 tokens never preempt each other; decode batches are captured"),
        ((), "planned for     prompt 2048/4096, output 2048/4096 (assumed: set --prompt and --output)"),
    ],
)
def test_plan_says_where_its_numbers_come_from(argv, says, capsys):
    assert says in " ".join(run(capsys, NANO, "--gpu", "l40s", *argv).split("\n    "))


def test_json_and_text_agree(capsys):
    argv = (NANO, "--gpu", "l40s", "--prompt", "1024/4096", "--output", "512/2048")
    plan = json.loads(run(capsys, *argv, "--json"))
    text = run(capsys, *argv)
    assert plan["confidence"] == "estimate"
    assert plan["verdict"] == "starts"
    assert plan["cache"]["block_size"] == 1312
    assert plan["cache"]["bytes_per_block"] == 4 * 5_373_952
    assert plan["capacity"]["request_length"] == 6144
    memory = plan["memory"]
    parts = sum(memory[name] for name in ("weights", "runtime", "activation", "graphs", "pool"))
    assert parts == memory["requested"] <= memory["total"]
    for flag in plan["flags"]:
        if isinstance(flag["value"], bool):
            continue
        assert f"--{flag['name'].replace('_', '-')} {flag['value']}" in text
    low, middle, high = plan["capacity"]["num_blocks"]
    assert low < middle < high
    assert f"{low:,} to {high:,}" in text
    assert plan["engine_args"]["max_num_seqs"] <= plan["capacity"]["n_steady"][0]


def test_capacity_of_the_next_engine_release(capsys):
    argv = (NANO, "--gpu", "h100", "--kv-bytes", str(4 << 30), "--context", "131072", "--concurrency", "8", "--json")
    now = json.loads(run(capsys, *argv))
    later = json.loads(run(capsys, *argv, "--engine", "0.32.0"))
    assert (now["capacity"]["printed_tokens"][0], later["capacity"]["printed_tokens"][0]) == (228_801, 215_564)


def test_settings_file_and_flags_combine(capsys, tmp_path):
    file = tmp_path / "hybridserve.yaml"
    file.write_text(f"model: {{id: {NANO}}}\naccelerator: {{name: l40s}}\nengine: {{max_num_seqs: 5}}\n")
    plan = json.loads(run(capsys, "-c", str(file), "--json"))
    assert (plan["accelerator"]["id"], plan["engine_args"]["max_num_seqs"]) == ("l40s", 5)
    plan = json.loads(run(capsys, "-c", str(file), "--concurrency", "6", "--gpu", "h100", "--json"))
    assert (plan["accelerator"]["id"], plan["engine_args"]["max_num_seqs"]) == ("h100", 6)


def test_calibration_file_makes_the_pool_known(capsys, tmp_path):
    from datetime import date

    from hybridserve.planning.deployment import profiled_settings
    from hybridserve.planning.memory.profile import record
    from hybridserve.planning.resolve import plan_settings
    from hybridserve.settings import load

    settings = load(None, [f"model.id={NANO}", "accelerator.name=a10g"], environ={}).settings
    planned = plan_settings(settings).advice.plan
    file = tmp_path / "pools.yaml"
    file.write_text(
        record(
            "",
            model=NANO,
            accelerator="a10g",
            settings=profiled_settings(planned.deployment),
            kv_bytes=planned.budget.kv,
            read=date(2026, 11, 23),
        )
    )
    fixed = [f"{flag.name}={flag.value}" for flag in planned_flags(settings)]
    argv = [NANO, "--gpu", "a10g", "--calibration", str(file), "--json"]
    for assignment in fixed:
        argv += ["--set", f"engine.{assignment}"]
    assert json.loads(run(capsys, *argv))["confidence"] == "known"


def planned_flags(settings):
    from hybridserve.planning.resolve import plan_settings

    return [flag for flag in plan_settings(settings).advice.flags if flag.name != "watermark"]


def test_compare_shows_the_crossover_of_hybrid_and_transformer(capsys):
    content = json.loads(
        run(capsys, "--compare", NANO, "qwen3-8b", "--gpu", "a10g,h100", "--json", "--lengths", "512,8192,131072")
    )
    rows = {(row["model"], row["accelerator"]): row for row in content["rows"]}
    assert len(rows) == 4
    nano, qwen = rows[NANO, "h100"]["lengths"], rows["qwen3-8b", "h100"]["lengths"]
    assert nano["512"]["bytes_per_sequence"] > qwen["512"]["bytes_per_sequence"]
    assert nano["131072"]["bytes_per_sequence"] < qwen["131072"]["bytes_per_sequence"] / 7
    assert nano["8192"]["n_safe"] > qwen["8192"]["n_safe"]
    assert qwen["131072"]["beyond_the_model"]
    (crossing,) = content["crossovers"]
    assert 2000 < crossing["tokens"] < 2600


def test_lengths_alone_show_the_table(capsys):
    (row,) = json.loads(run(capsys, NANO, "--gpu", "l40s", "--lengths", "1000", "--json"))["rows"]
    assert list(row["lengths"]) == ["1000"]


def test_model_that_does_not_fit_has_a_row(capsys):
    text = run(capsys, NANO, "nemotron-3-super-120b-a12b", "--gpu", "a10g")
    assert "does not start" in text
    assert "No available memory" in text


def test_chart_is_a_png(capsys, tmp_path):
    path = tmp_path / "crossover.png"
    run(capsys, "--compare", NANO, "qwen3-8b", "--gpu", "l40s", "--chart", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000


def test_terminal_output_has_a_memory_bar():
    import pty

    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from hybridserve.cli import main; main()", "plan", NANO, "--gpu", "a10g"],
        stdout=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    assert process.wait() == 0
    assert "█" in seen.decode()


@pytest.mark.parametrize(
    ("argv", "where", "fix"),
    [
        ([NANO, "--gpu", "a11g"], "accelerator.name", "did you mean a10g"),
        (["nemotron-nano-9b", "--gpu", "a10g"], "model.id", NANO),
        ([NANO, "--gpu", "a10g", "--tp", "3"], "engine.tensor_parallel_size", "1, 2, 4, 8"),
        ([NANO, "--gpu", "a10g", "--context", "200000"], "engine.max_model_len", "131072"),
        ([NANO, "--gpu", "a10g", "--context", "0"], "engine.max_model_len", "--context"),
        ([NANO, "--gpu", "a10g", "--concurrency", "500"], "engine.max_num_seqs", ""),
        ([NANO, "--gpu", "a10g", "--prompt", "many"], "--prompt", "1024/4096"),
        ([NANO, "--gpu", "a10g", "--engine", "latest"], "engine.version", "0.29.0"),
        ([NANO, "--gpu", "a10g", "--requests", "/nowhere.csv"], "--requests", "existing"),
        (["nemotron-3-super-120b-a12b", "--gpu", "h100"], "accelerator.name", "engine.tensor_parallel_size=4"),
        ([NANO, "--gpu", ","], "--gpu", "a10g"),
        ([NANO, "--gpu", "a10g", "--lengths", "long"], "--lengths", "8192"),
        ([NANO, "--gpu", "a10g", "--batches", "8"], "--batches", "--bound"),
    ],
)
def test_invalid_input_names_the_field_and_the_fix(capsys, argv, where, fix):
    said = refused(capsys, *argv)
    assert said.splitlines()[0] == f"error: {where}"
    assert fix in said.splitlines()[2]


def test_errors_are_json_with_json_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["plan", NANO, "--gpu", "x", "--json"])
    assert caught.value.code == 2
    assert json.loads(capsys.readouterr().out)["where"] == "accelerator.name"


def test_bound_ratio_is_the_product_of_its_factors(capsys):
    argv = ["--bound", NANO, "qwen3-8b", "--gpu", "a10g", "--prompt", "8192", "--output", "16384", "--json"]
    nano, qwen = json.loads(run(capsys, *argv, "--batches", "8,1"))["rows"]
    ratio = nano["ratio"]
    assert ratio["total"] == pytest.approx(nano["output_tokens_per_s"] / qwen["output_tokens_per_s"])
    assert ratio["total"] == pytest.approx(ratio["equal_batch"] * ratio["capacity"])
    assert "ratio" not in qwen
    fitting = json.loads(run(capsys, *argv))["rows"]
    assert (fitting[0]["batch"], fitting[1]["batch"]) == (5, 1)
    assert "--batches" in refused(capsys, *argv[:-1], "--batches", "8")


def test_comparison_with_prices_has_the_cheapest_first(capsys):
    prices = ("--price-per-hour", "a10g=1.0,l40s=1.9,h100=2.5")
    rows = json.loads(run(capsys, "--compare", NANO, "--gpu", "a10g,h200,l40s,h100", *prices, "--json"))["rows"]
    costs = [row["cost"]["requests"] for row in rows[:-1]]
    assert costs == sorted(costs)
    assert (rows[-1]["accelerator"], rows[-1]["cost"]) == ("h200", None)
    text = run(capsys, "--compare", NANO, "--gpu", "a10g,h100", *prices)
    assert "lower bounds" in text


def test_text_says_that_a_cost_is_a_lower_bound(capsys):
    assert "a lower bound, at the upper bound of throughput" in run(
        capsys, NANO, "--gpu", "h100", "--price-per-hour", "2"
    )
    assert "least cost      not known" in run(capsys, NANO, "--gpu", "h100", "--pp", "2", "--price-per-hour", "2")
    assert "h100 has no price" in refused(capsys, NANO, "--gpu", "h100", "--price-per-hour", "a10g=2")
    assert "--price-per-hour" in refused(capsys, NANO, "--gpu", "h100", "--price-per-hour", "cheap")


def test_compare_is_at_the_lengths_of_the_requests(capsys):
    lengths = ("--prompt", "1024/4096", "--output", "512/2048")
    content = json.loads(run(capsys, "--compare", NANO, "--gpu", "l40s", *lengths, "--json"))
    (row,) = content["rows"]
    assert list(row["lengths"]) == ["1536", "6144"]
    assert content["workload"]["total"] == [1536, 6144]
    text = run(capsys, "--compare", NANO, "--gpu", "l40s", *lengths)
    assert "Flags planned for prompt 1024/4096, output 512/2048: 1,536 tokens at p50, 6,144 at p95." in text
    (row,) = json.loads(run(capsys, "--compare", NANO, "--gpu", "l40s", *lengths, "--lengths", "9000", "--json"))[
        "rows"
    ]
    assert list(row["lengths"]) == ["9000"]
    (row,) = json.loads(run(capsys, "--compare", NANO, "--gpu", "l40s", "--json"))["rows"]
    assert list(row["lengths"]) == ["8192", "32768", "131072"]


@pytest.mark.parametrize(
    ("asked", "fits", "preemptions", "said"),
    [
        (4, True, "none", "fit at 8,192 tokens each, without preemption"),
        (70, True, "rare", "fit at 8,192 tokens each, with rare preemptions"),
        (300, False, "frequent", "do not fit at 8,192 tokens each"),
    ],
)
def test_asked_concurrency_is_judged(capsys, asked, fits, preemptions, said):
    argv = (NANO, "--gpu", "l40s", "--concurrency", str(asked))
    capacity = json.loads(run(capsys, *argv, "--json"))["capacity"]
    most = capacity["n_steady"][0]
    assert capacity["asked"] == {
        "sequences": asked, "length": 8192, "most": most, "fits": fits, "preemptions": preemptions
    }  # fmt: skip
    assert (asked <= most) == fits
    assert f"{asked} requests at once (max_num_seqs): {said}" in run(capsys, *argv)
    assert json.loads(run(capsys, NANO, "--gpu", "l40s", "--json"))["capacity"]["asked"] is None


def test_compare_judges_the_asked_concurrency_on_each_device(capsys):
    argv = ("--compare", NANO, "--gpu", "a10g,l40s", "--prompt", "3000", "--output", "500", "--concurrency", "40")
    rows = json.loads(run(capsys, *argv, "--json"))["rows"]
    assert [row["asked"]["fits"] for row in rows] == [False, True]
    text = run(capsys, *argv)
    assert "40 requests at once do not fit on a10g" in text
    assert "40 requests at once fit on l40s" in text


def test_alternatives_start_from_the_numbers_of_the_flags(capsys):
    argv = (NANO, "--gpu", "a10g", "--prompt", "3000", "--output", "500")
    steady = json.loads(run(capsys, *argv, "--json"))["capacity"]["n_steady"][0]
    text = " ".join(run(capsys, *argv).split())
    assert f" {steady} requests of 3,500 tokens fit, with rare preemptions" in text
    assert f"instead of {steady} requests of 3,500 tokens at once" in text
