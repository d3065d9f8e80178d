"""Write the overhead table of docs/evidence/overhead.md from the rounds that `overhead.py` has measured.

    python benchmarks/overhead_table.py .cache/overhead docs/evidence/overhead.md

The block between the two markers is replaced. Figures are medians over the rounds; a ratio is the median of the ratios
within each round, with the quartiles of those in brackets where it decides.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- overhead -->\n", "<!-- end of overhead -->"
RAY = "ray default"
# Share of the data path's throughput that keys and limits may cost.
ALLOWED = 0.05
Round = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median and quartiles of one figure's ratios within each round."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(rounds: list[Round], target: str, base: str, figure: str) -> Ratio:
    """`target` over `base`, round by round."""
    values = [r[target][figure] / r[base][figure] for r in rounds]
    if len(values) < 2:
        return Ratio(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(low, middle, high)


def rows(rounds: list[Round], concurrency: int) -> Iterable[list[str]]:
    """One row of the table for each target of a part, at one concurrency."""
    for name in rounds[0]:
        figures = {f: statistics.median(r[name][f] for r in rounds) for f in ("ttft_ms", "itl_ms", "rps", "cpu_ms")}
        base = rounds[0][name]["base"]
        cells = [str(concurrency), name, f"{figures['ttft_ms']:.1f}", f"{figures['itl_ms']:.2f}"]
        cells += [f"{figures['rps']:.1f}", f"{figures['cpu_ms']:.0f}"]
        if base is None:
            cells += ["", "", "", ""]
        else:
            cells += [f"{ratio(rounds, name, base, f).middle:.2f}" for f in ("ttft_ms", "itl_ms")]
            cells += [str(ratio(rounds, name, base, "rps")), f"{ratio(rounds, name, base, 'cpu_ms').middle:.2f}"]
        yield [*cells, against_ray(rounds, name)]


def against_ray(rounds: list[Round], name: str) -> str:
    """Requests a second against Ray's own ingress, in the same rounds."""
    return str(ratio(rounds, name, RAY, "rps")) if RAY in rounds[0] and name != RAY else ""


HEAD = [
    "| c | target | TTFT ms | ITL ms | req/s | CPU ms | TTFT to bare | ITL | req/s | CPU | req/s to ray default |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
]


def table(part: str, lines: list[dict[str, Any]]) -> str:
    """The table of one part in Markdown."""
    out = [*HEAD]
    counts = []
    for concurrency in sorted({line["concurrency"] for line in lines}):
        rounds = [line["targets"] for line in lines if line["concurrency"] == concurrency]
        counts.append(f"{len(rounds)} at {concurrency}")
        out += ["| " + " | ".join(cells) + " |" for cells in rows(rounds, concurrency)]
    failed = sum(target["failed"] for line in lines for target in line["targets"].values())
    head = f"`{part}`: {', '.join(counts)} rounds; {failed} requests failed.\n"
    return f"{head}\n" + "\n".join(out) + "\n"


def layer_table(lines: list[dict[str, Any]]) -> str:
    """`keys` over `bare` in the part that has nothing else: geometric means of the rounds' ratios, 95 % intervals."""
    out = [
        "| at once | rounds | requests a second | TTFT | ITL | processor time |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    levels = sorted({line["concurrency"] for line in lines})
    for name, chosen in [*((str(level), {level}) for level in levels), ("all", set(levels))]:
        rounds = [line["targets"] for line in lines if line["concurrency"] in chosen]
        bare, keys = rounds[0]
        cells = [str(over_rounds(rounds, keys, bare, figure)) for figure in ("rps", "ttft_ms", "itl_ms", "cpu_ms")]
        out.append(f"| {name} | {len(rounds)} | {' | '.join(cells)} |")
    return "\n".join(out) + "\n"


def result(got: Ratio, least: float) -> str:
    """Whether an interval is above its limit; `not decided` when it contains the limit."""
    if got.low >= least:
        return "met"
    return "MISSED" if got.high < least else "not decided"


def over_rounds(rounds: list[Round], target: str, base: str, figure: str) -> Ratio:
    """Geometric mean of the ratios within each round, with its 95 % interval."""
    logs = [math.log(r[target][figure] / r[base][figure]) for r in rounds]
    spread = 1.96 * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    middle = statistics.fmean(logs)
    return Ratio(math.exp(middle - spread), math.exp(middle), math.exp(min(middle + spread, 700)))


def judge(parts: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Check the limits: keys and limits keep 95 % of their data path's throughput, and all of Ray's."""
    out = []
    for part, lines in parts.items():
        rounds = [line["targets"] for line in lines]
        for name in rounds[0]:
            for base, least in ((rounds[0][name]["base"], 1 - ALLOWED), (RAY, 1.0)):
                if name.endswith(", keys") and base in rounds[0]:
                    got = over_rounds(rounds, name, base, "rps")
                    processor = over_rounds(rounds, name, base, "cpu_ms")
                    out.append(
                        f"{result(got, least)}: {part}, {len(rounds)} rounds: {name} has {got} of the"
                        f" requests a second of {base} (least {least:g}), and takes {processor} of its processor time"
                    )
    return out


def main() -> None:
    """Replace the block, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    parts = {
        file.stem: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for file in sorted(options.folder.glob("*.jsonl"))
    }
    page = options.page.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    results = judge(parts)
    layer = f"`layer`, keys to bare:\n\n{layer_table(parts.pop('layer'))}" if "layer" in parts else ""
    tables = "\n".join([layer, *(table(part, lines) for part, lines in parts.items())])
    options.page.write_text(f"{before}{BEGIN}{tables}{END}{after}", encoding="utf-8")
    print("\n".join(results))


if __name__ == "__main__":
    main()
