"""Make a linked CUDA library small by dropping the device code of other architectures.

The section .nv_fatbin is a list of containers: a 16-byte header (magic, version, header size, size of what follows) and
entries (machine code or PTX) whose headers name their architecture. Each container keeps only the machine code of the
given architecture, moved to its front; zeros follow, which compress to nothing. A container without such code keeps its
smallest entry of machine code, so that it stays valid. Nothing else in the file moves. `cuobjdump` reads the result.

    fatbin_prune.py IN OUT [--sm 90]
"""

from __future__ import annotations

import argparse
import collections
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

MAGIC = 0xBA55ED50
PTX, ELF = 1, 2


def section(data: bytes, name: bytes) -> tuple[int, int]:
    """Offset and size of a section of an ELF64 file, (0, 0) where there is none."""
    headers = struct.unpack_from("<Q", data, 0x28)[0]
    width, count, strings_at = struct.unpack_from("<HHH", data, 0x3A)
    strings = struct.unpack_from("<Q", data, headers + strings_at * width + 24)[0]
    for i in range(count):
        at = headers + i * width
        label = strings + struct.unpack_from("<I", data, at)[0]
        if data[label : data.index(b"\0", label)] == name:
            return struct.unpack_from("<QQ", data, at + 24)
    return 0, 0


def containers(data: bytes, start: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Offset of each container, offset of its entries, and their size in bytes."""
    at, end = start, start + size
    while at + 16 <= end:
        magic, _, head, body = struct.unpack_from("<IHHQ", data, at)
        if magic != MAGIC:
            at += 8
            continue
        yield at, at + head, body
        at += head + body
        at += -at % 8


def entries(data: bytes, at: int, body: int) -> Iterator[tuple[int, int, int, int]]:
    """(offset, bytes with the header, kind, architecture) of each entry."""
    end = at + body
    while at + 64 <= end:
        kind, _, head = struct.unpack_from("<HHI", data, at)
        size = head + struct.unpack_from("<Q", data, at + 8)[0]
        if kind not in (PTX, ELF) or head < 32 or at + size > end:
            raise ValueError(f"unknown entry of kind {kind} at {at:#x}")
        yield at, size, kind, struct.unpack_from("<I", data, at + 28)[0]
        at += size


def prune(data: bytearray, sm: int) -> collections.Counter[tuple[str, int, str]]:
    """Drop in place the code of every other architecture; returns bytes by kind, architecture and fate."""
    counted: collections.Counter[tuple[str, int, str]] = collections.Counter()
    for start, at, body in list(containers(data, *section(data, b".nv_fatbin"))):
        found = list(entries(data, at, body))
        kept = [e for e in found if e[2] == ELF and e[3] == sm]
        kept = kept or [min((e for e in found if e[2] == ELF), key=lambda e: e[1], default=found[0])]
        for entry in found:
            _, size, kind, arch = entry
            counted["code" if kind == ELF else "ptx", arch, "kept" if entry in kept else "dropped"] += size
        blob = b"".join(data[offset : offset + size] for offset, size, _, _ in kept)
        data[at : at + body] = blob + bytes(body - len(blob))
        struct.pack_into("<Q", data, start + 8, len(blob))
    return counted


def main() -> int:
    """Prune one library; prints the bytes by kind, architecture and fate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--sm", type=int, default=90)
    asked = parser.parse_args()
    data = bytearray(asked.source.read_bytes())
    counted = prune(data, asked.sm)
    asked.target.write_bytes(data)
    kept = sum(n for (_, _, fate), n in counted.items() if fate == "kept")
    print(f"{asked.source.name}: {sum(counted.values()):,} B of device code, {kept:,} B kept")
    for (kind, arch, fate), n in sorted(counted.items()):
        print(f"  {kind} {arch}: {n:,} B {fate}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
