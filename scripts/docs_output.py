"""Update the command output shown in the documentation.

A block is written as::

    <!-- output: hybridserve plan nemotron-nano-9b-v2 --gpu a10g -->
    ```text
    $ hybridserve plan nemotron-nano-9b-v2 --gpu a10g
    ...
    ```

The comment is not visible on a page, so the block begins with the command.
Of a long output a pipe takes a part: ``<!-- output: hybridserve plan MODEL --gpu GPU | grep blocks -->``.
Run ``python scripts/docs_output.py docs/how-to/*.md`` to update; ``--check`` fails if a page is out of date.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"(<!-- output: (?P<command>[^\n]+?) -->\n```text\n)(?P<text>.*?)(```)", re.DOTALL)


def output(command: str) -> str:
    """Output of a command, or what a filter after ` | ` leaves of it.

    A failing command is an error, unless it ends with `|| true`.
    """
    may_fail = command.endswith("|| true")
    command, _, filtered = command.removesuffix("|| true").partition(" | ")
    words = shlex.split(command)
    if words[0] == "hybridserve":
        words[:1] = [sys.executable, "-c", "from hybridserve.cli import main; main()"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stderr}")
    text = done.stdout + done.stderr
    if filtered:
        text = subprocess.run(shlex.split(filtered), input=text, capture_output=True, text=True, check=True).stdout
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def filled(page: str) -> str:
    """The page with all blocks updated."""

    def block(match: re.Match[str]) -> str:
        shown = match["command"].removesuffix("|| true").rstrip()
        return f"{match[1]}$ {shown}\n{output(match['command'])}{match[4]}"

    return BLOCK.sub(block, page)


def main() -> int:
    """Update or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a page is out of date")
    options = parser.parse_args()
    stale = []
    for page in options.pages:
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            stale.append(page)
            if not options.check:
                page.write_text(new, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'out of date' if options.check else 'updated'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
