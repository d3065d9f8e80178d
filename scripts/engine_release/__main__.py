"""Examine a vLLM release, write its entry of the engine table and a report with a verdict.

    python scripts/engine_release 0.34.0
    python scripts/engine_release 0.31.0 --random 1000 --no-server

Steps: fetch the release; compare the planner with its allocator, and fit the constants that only show there; read what
it says about itself; check the imports of Ray Serve LLM and of our hooks; compare flags and metrics with the release
before; serve the demo model and send prompts twice, where there is a CPU build. Exit code 1: the entry that is there is
wrong, or the planner disagrees.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine_release import source
from engine_release.cache_server import test_cache
from engine_release.differential import ask, fit
from engine_release.entry import changes, entry_text, measured_table, ray_support
from engine_release.release import ROOT, Release, fetch
from engine_release.report import Findings, report, verdict
from hybridserve.catalog.engines import engine_tables, release
from hybridserve.planning.models import READERS

PROBE = Path(__file__).with_name("probe.py")
TABLE = ROOT / "src" / "hybridserve" / "catalog" / "engines.yaml"
REPORTS = ROOT / "docs" / "evidence" / "engines"
# What a deployment imports of Ray: the public names, and the module that `engine.patches.ray_llm` uses.
RAY_ROOTS = ("ray.serve.llm", "ray.llm._internal.serve.engines.vllm.vllm_engine")


def main() -> int:
    """Run the steps and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="release of vLLM, such as 0.34.0")
    parser.add_argument("--random", type=int, default=1000, help="number of drawn cases")
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--no-server", action="store_true", help="leave the cache test out")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "engines", help="where releases are unpacked")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)

    tables = {table.version: table for table in engine_tables()}
    before = [name for name in tables if release(name) < release(arguments.version)]
    base = tables[before[-1] if before else arguments.version]
    present = tables.get(arguments.version)

    new = fetch(arguments.version, arguments.cache)
    old = fetch(base.version, arguments.cache)
    said, said_before = (each.ask_json(PROBE, *sorted(READERS)) for each in (new, old))
    cache = None if arguments.no_server or not new.cpu_build else test_cache(new)
    broken = ray_imports(new)
    ray = ray_support(version("ray"), broken)
    measured = measured_table(base, new, said, said_before, cache, ray, datetime.now(UTC).date())
    if cache is None and present is not None:
        # Only the cache test shows them.
        measured = measured.model_copy(update={"known_faults": present.known_faults})
    answers = ask(new, arguments.random, arguments.seed)
    measured = fit(answers, measured)

    findings = Findings(
        measured=measured,
        base=base,
        present=present,
        answers=answers,
        differing=tuple(answers.differing(present or measured)),
        cpu_build=new.cpu_build,
        cache=cache,
        hooks=tuple(source.broken_imports(new.folder, source.modules_of(ROOT / "src", "hybridserve"))),
        ray=tuple(broken),
        flags=(set(said_before["flags"]), set(said["flags"])),
        environment=(set(said_before["environment"]), set(said["environment"])),
        metrics=(source.metrics(old.folder), source.metrics(new.folder)),
    )
    if present is None:
        TABLE.write_text(TABLE.read_text(encoding="utf-8") + entry_text(measured, base), encoding="utf-8")
        print(f"added {arguments.version} to {TABLE.relative_to(ROOT)}")
    REPORTS.mkdir(parents=True, exist_ok=True)
    file = REPORTS / f"{arguments.version}.md"
    file.write_text(report(findings), encoding="utf-8")
    print(f"{verdict(findings).line}\nwrote {file.relative_to(ROOT)}")
    wrong = changes(present, measured) if present else {}
    return 1 if findings.differing or wrong else 0


def ray_imports(new: Release) -> list[tuple[source.BrokenImport, bool]]:
    """Broken imports of Ray's LLM modules, and whether a deployment imports the module."""
    packages = source.site_packages("ray")
    modules = source.modules_of(packages, "ray/llm") | source.modules_of(packages, "ray/serve/llm")
    served = source.reachable(RAY_ROOTS, modules)
    return [(item, item.module in served) for item in source.broken_imports(new.folder, modules)]


if __name__ == "__main__":
    raise SystemExit(main())
