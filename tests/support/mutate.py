"""Files that somebody might write by mistake, or on purpose: a good tree or text, broken by a seeded hand."""

from __future__ import annotations

import copy
import random
from typing import Any

# What is put where something else belongs.
WRONG: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e308, float("inf"), float("nan"), "",
    " ", "auto", "null", "-1", "1e9", "\u0000", "a\nb", "../../etc/passwd", "/dev/null",
    "/proc/self/mem", "{{ x }}", "${HOME}",
    "%s%n", "😀", "x" * 5000, [],
    [None], [[]], {}, {"": ""}, {"a": {"b": {"c": None}}}, ["a", 1, None],
)  # fmt: skip
_CHARS = "\x00\t\n\r:{}[]&*!|>'\"%@`#-,?\\\ufeff\u2028é😀0aZ"


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value below the root."""
    found: list[tuple[Any, ...]] = []
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            found.append((*path, key))
            found += places(value, (*path, key))
    return found


def mutate_tree(tree: Any, rng: random.Random, most: int = 4) -> Any:
    """A copy with one to `most` values replaced, removed, moved, renamed or wrapped."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, most)):
        known = places(tree)
        if not known:
            return rng.choice(WRONG)
        path = rng.choice(known)
        parent = tree
        for part in path[:-1]:
            parent = parent[part]
        last, act = path[-1], rng.randrange(7)
        if act == 0:
            del parent[last]
        elif act == 1 and isinstance(parent, dict):
            parent[str(last) + rng.choice(("x", " ", "_"))] = parent.pop(last)
        elif act == 2:
            parent[last] = [copy.deepcopy(parent[last]) for _ in range(rng.choice((1, 2, 9)))]
        elif act == 3 and isinstance(parent[last], int | float):
            parent[last] = rng.choice((-parent[last], parent[last] * 10**9, parent[last] + 1, str(parent[last]), 0))
        elif act == 4:
            other: Any = tree
            for part in rng.choice(known):
                try:
                    other = other[part]
                except (KeyError, IndexError, TypeError):
                    break
            parent[last] = copy.deepcopy(other)
        else:
            parent[last] = copy.deepcopy(rng.choice(WRONG))
    return tree


def mutate_text(text: str, rng: random.Random) -> bytes:
    """A file with some bytes cut, doubled, swapped or put in."""
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        act = rng.randrange(5)
        if act == 0:
            del data[at : at + rng.randint(1, 40)]
        elif act == 1:
            data[at:at] = rng.choice(_CHARS).encode()
        elif act == 2:
            data[at:at] = data[at : at + rng.randint(1, 80)]
        elif act == 3:
            data[at:at] = bytes([rng.randrange(256)])
        else:
            del data[at:]
    return bytes(data)
