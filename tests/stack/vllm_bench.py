"""`vllm bench serve` in a persistent process, since its import takes longer than a run. One JSON line for each run."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class VllmBench:
    """The client of the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, flags: Sequence[str]) -> dict[str, Any]:
        """Run `vllm bench serve` with these flags and return its result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            saved = ["--save-result", "--result-dir", folder, "--result-filename", "result.json"]
            self._process.stdin.write(json.dumps([*flags, *saved]) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line == "## done\n":
                    return json.loads((Path(folder) / "result.json").read_text())
        raise AssertionError(f"vllm bench ended with {self._process.wait()}")


@contextmanager
def vllm_bench() -> Iterator[VllmBench]:
    """Start and stop the process."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield VllmBench(process)
        except AssertionError:
            log.seek(0)
            print(log.read()[-3000:])
            raise
        finally:
            process.terminate()
            process.wait(20)


def main() -> None:
    """Run each line of standard input."""
    from vllm.benchmarks.serve import add_cli_args, main_async

    for line in sys.stdin:
        parser = argparse.ArgumentParser()
        add_cli_args(parser)
        asyncio.run(main_async(parser.parse_args(json.loads(line))))
        print("## done", flush=True)


if __name__ == "__main__":
    main()
