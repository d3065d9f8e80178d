"""Request lengths from numbers, pairs and tables."""

from __future__ import annotations

import pytest

from hybridserve.errors import ConfigError
from hybridserve.planning.workload import from_csv, from_quantiles


def test_single_length_applies_to_all_requests():
    workload = from_quantiles("1024", "512")
    assert (workload.p50, workload.p95) == (1536, 1536)


def test_pair_is_p50_and_p95():
    workload = from_quantiles("1024/4096", "256/2048")
    assert (workload.p50, workload.p95) == (1280, 6144)


@pytest.mark.parametrize("text", ["", "x", "1/2/3", "0", "-4", "9/3", "1.5"])
def test_invalid_lengths_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        from_quantiles(text, "1")
    assert caught.value.where == "--prompt"


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("8,000", "write 8000, without the comma"),
        ("1k/4k", "write 1024/4096"),
        ("1,024/4096", "write 1024/4096, without the comma"),
        ("many", "write 1024, or p50/p95 as 1024/4096"),
        ("1/2/3", "write 1024, or p50/p95 as 1024/4096"),
    ],
)
def test_refused_length_is_written_out(text, fix):
    with pytest.raises(ConfigError) as caught:
        from_quantiles(text, "1")
    assert caught.value.fix == fix


def test_csv_quantiles_are_of_totals():
    # Long prompts with short answers: the total's p95 is far below the sum of both p95.
    rows = ["prompt,output", *("10,1000" for _ in range(50)), *("1000,10" for _ in range(50))]
    workload = from_csv("\n".join(rows), "requests.csv")
    assert (workload.prompt_p95, workload.output_p95, workload.p95) == (1000, 1000, 1010)
    assert "100 requests" in workload.source


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("prompt\n1", "requests.csv"),
        ("prompt,output\n", "requests.csv"),
        ("prompt,output\n1,2\n1,x", "requests.csv:3"),
        ("prompt,output\n1", "requests.csv:2"),
        ("prompt,output\n0,1", "requests.csv:2"),
    ],
)
def test_invalid_csv_row_is_named(text, where):
    with pytest.raises(ConfigError) as caught:
        from_csv(text, "requests.csv")
    assert caught.value.where == where
