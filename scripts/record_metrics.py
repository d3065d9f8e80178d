"""Record which metrics the pinned engine and Ray export, with their labels, for dashboards and rules.

    hybridserve serve --set telemetry.targets_dir=/tmp/targets     # then some requests, of all kinds
    python scripts/record_metrics.py /tmp/targets/*.json           # or saved expositions, *.txt

New names are added to the recorded ones: some metrics appear only after their first event. `--fresh` starts over.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

FILE = Path(__file__).resolve().parent.parent / "tests" / "data" / "exported_metrics.json"
PREFIX = "hybridserve_"


def exposition(path: Path) -> str:
    """The text of a saved exposition, or of the target in a target file."""
    if path.suffix != ".json":
        return path.read_text(encoding="utf-8")
    (group,) = json.loads(path.read_text(encoding="utf-8"))
    return httpx.get(f"http://{group['targets'][0]}/metrics", trust_env=False, timeout=30).text


def record(paths: list[Path], known: dict[str, list[str]]) -> dict[str, list[str]]:
    """Sample name to the union of its labels."""
    for path in paths:
        for family in text_string_to_metric_families(exposition(path)):
            for sample in family.samples:
                if not sample.name.startswith(PREFIX) and not sample.name.endswith("_created"):
                    known[sample.name] = sorted({*known.get(sample.name, ()), *sample.labels})
    return dict(sorted(known.items()))


if __name__ == "__main__":
    args = sys.argv[1:]
    before = json.loads(FILE.read_text()) if FILE.exists() and "--fresh" not in args else {}
    found = record([Path(arg) for arg in args if not arg.startswith("--")], before)
    FILE.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")
    print(f"{len(found)} series names, {len(found) - len(before)} new: {FILE.name}")
