"""What a plan says about its throughput bound, and about more sequences than run at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hybridserve.cli import main

NANO = "nemotron-nano-9b-v2"
A100 = (NANO, "--gpu", "a100-80gb")
MORE_THAN_FIT = (*A100, "--concurrency", "2573")


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *argv])
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    return " ".join(said.out.split())


def read(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    return json.loads(printed(capsys, *argv, "--json"))


def test_larger_part_of_the_time_comes_first_with_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    long, short = (printed(capsys, *A100, "--prompt", prompt, "--output", "512") for prompt in ("8000", "100"))
    assert "77% of the time on prompts, limited by compute; 23% on decode, limited by memory bandwidth" in long
    assert "of the time on decode, limited by memory bandwidth;" in short
    table = printed(capsys, "--bound", *A100, "--prompt", "8000", "--output", "512")
    assert " 77% prefill: compute " in table
    assert " decode: memory bandwidth " in printed(capsys, "--bound", *A100, "--prompt", "100", "--output", "512")


def test_bound_is_that_of_the_sequences_that_run(capsys: pytest.CaptureFixture[str]) -> None:
    price = ("--price-per-hour", "2")
    plan = read(capsys, *MORE_THAN_FIT, *price)
    asked = plan["capacity"]["asked"]
    assert not asked["fits"]
    assert plan["bound"]["batch"] == asked["most"] == plan["capacity"]["n_steady"][0]
    # The cost is at the bound: 2,048 tokens of output a request.
    seconds = 2048 / plan["bound"]["output_tokens_per_s"]
    assert plan["cost"]["requests"] == pytest.approx(2 / 3600 * seconds * 1e6)
    few = read(capsys, *A100, "--concurrency", "8")
    assert few["bound"]["batch"] == 8
    text = printed(capsys, *MORE_THAN_FIT)
    assert f"output tokens/s with {asked['most']} of 2,573 sequences, " in text


def test_comparisons_run_no_more_than_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ("--prompt", "1024", "--output", "1024")
    bounds = {}
    for asked in ((), ("--concurrency", "2")):
        (row,) = read(capsys, "--bound", *A100, *lengths, *asked)["rows"]
        (compared,) = read(capsys, *A100, "--lengths", "2048", *asked)["rows"]
        bounds[asked] = row["batch"], compared["lengths"]["2048"]["bound_output_tokens_per_s"]
    (all_, fast), (two, slow) = bounds.values()
    assert (two, all_ > two, fast > slow) == (2, True, True)


def test_flags_of_the_user_are_not_said_to_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    given = read(capsys, *MORE_THAN_FIT)["without_advice"]
    assert (given["given"], given["where"]) == (["max_num_seqs"], "engine.max_num_seqs")
    assert "! Without the flags below that you did not set, the engine may not start" in printed(capsys, *MORE_THAN_FIT)
    assert "! Without the flags below the engine would not start" in printed(capsys, NANO, "--gpu", "a10g")


def test_batch_from_an_estimate_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    bound, note = ("--bound", *A100, "--prompt", "1024", "--output", "512"), "the middle of the estimated cache pool"
    assert note in printed(capsys, *bound)
    for known in (("--batches", "8"), ("--kv-bytes", str(8 << 30)), ("--concurrency", "2")):
        assert note not in printed(capsys, *bound, *known)


def test_requests_that_cannot_preempt_are_not_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "qwen3-8b", "--gpu", "a100-80gb", "--prompt", "8000", "--output", "512")
    assert "N_steady 48 requests of 8,512 tokens, no preemption possible" in text
    assert "--max-num-seqs 48 48 requests of 8,512 tokens fit, without preemption" in text
    assert "rare" not in text
    assert "fit, with rare preemptions" in printed(capsys, *A100)
