"""Lengths of the requests to plan for: p50 and p95 of prompt and output."""

from __future__ import annotations

import csv

from hybridserve.errors import ConfigError
from hybridserve.fast_dataclass import dataclass
from hybridserve.quantiles import nearest_rank
from hybridserve.units import written_out


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompt and output tokens of requests.

    `p50` and `p95` are of the total length. From quantiles they are sums, which is an upper bound; from a list of
    requests they are those of the list.
    """

    prompt_p50: int
    prompt_p95: int
    output_p50: int
    output_p95: int
    p50: int
    p95: int
    source: str


ASSUMED = Workload(
    2048, 4096, 2048, 4096, 4096, 8192, "prompt 2048/4096, output 2048/4096 (assumed: set --prompt and --output)"
)


def from_quantiles(prompt: str, output: str) -> Workload:
    """A workload from ``1024`` (every request) or ``1024/4096`` (p50/p95) for prompt and for output.

    Raises:
        ConfigError: not a number or a pair, not positive, or p95 below p50.
    """
    (prompt_p50, prompt_p95), (output_p50, output_p95) = _pair("--prompt", prompt), _pair("--output", output)
    return Workload(
        prompt_p50,
        prompt_p95,
        output_p50,
        output_p95,
        prompt_p50 + output_p50,
        prompt_p95 + output_p95,
        f"prompt {prompt}, output {output}",
    )


def from_csv(text: str, where: str) -> Workload:
    """A workload from a table with the columns ``prompt`` and ``output``, one request a row.

    Raises:
        ConfigError: a column is missing, or a row is not two positive integers.
    """
    rows = csv.DictReader(text.splitlines())
    missing = {"prompt", "output"} - set(rows.fieldnames or ())
    if missing:
        raise ConfigError(where, f"has no column {', '.join(sorted(missing))}", "write the header prompt,output")
    requests: list[tuple[int, int]] = []
    for row in rows:
        try:
            prompt, output = int(row["prompt"]), int(row["output"])
        except (TypeError, ValueError):
            prompt = output = 0
        if prompt < 1 or output < 1:
            raise ConfigError(
                f"{where}:{rows.line_num}", f"expected two positive integers, got {row}", "correct the row"
            )
        requests.append((prompt, output))
    if not requests:
        raise ConfigError(where, "has no rows", "write one request per row")
    prompts, outputs = zip(*requests, strict=True)
    totals = [prompt + output for prompt, output in requests]
    (prompt_p50, prompt_p95), (output_p50, output_p95), (p50, p95) = (
        (nearest_rank(ordered, 0.5), nearest_rank(ordered, 0.95)) for ordered in map(sorted, (prompts, outputs, totals))
    )
    source = f"{len(requests)} requests of {where}"
    return Workload(prompt_p50, prompt_p95, output_p50, output_p95, p50, p95, source)


def _pair(flag: str, text: str) -> tuple[int, int]:
    try:
        numbers = [int(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        fix = written_out(text, "/") or "write 1024, or p50/p95 as 1024/4096"
        raise ConfigError(flag, f"{text!r} is not a number of tokens", fix)
    if numbers[-1] < numbers[0]:
        raise ConfigError(flag, f"p95 {numbers[-1]} is below p50 {numbers[0]}", "write p50 first: 1024/4096")
    return numbers[0], numbers[-1]
