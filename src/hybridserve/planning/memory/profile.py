"""Pool sizes reported by earlier starts, so that the next plan need not estimate them.

The calibration file is YAML that can be committed::

    pools:
      - model: nemotron-nano-9b-v2
        accelerator: a10g
        digest: 1f0c6e5b7a41        # of the settings below
        kv_bytes: 3221225472        # "Available KV cache memory" of the start-up log
        read: 2026-11-23
        settings: {engine: 0.29.0, max_num_seqs: 16, ...}

These functions do no I/O: `serve` reads the file, calls `record` and writes the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybridserve import yamlio
from hybridserve.errors import ConfigError
from hybridserve.validation import from_validation

HEADER = (
    "# Cache pools reported by earlier starts: a plan with the same settings uses them. Delete an entry to drop it.\n"
)


class Pool(BaseModel):
    """The pool that one start reported, with the settings it was profiled with."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    model: str
    accelerator: str
    digest: str
    kv_bytes: int = Field(gt=0)
    """Bytes of the pool of each device; with several devices, of the smallest."""
    read: date
    settings: dict[str, Any] = Field(default_factory=dict)


class MemoryProfile(BaseModel):
    """All pools of one file."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    pools: tuple[Pool, ...] = ()

    def find(self, model: str, accelerator: str, settings: Mapping[str, Any]) -> Pool | None:
        """The pool profiled with exactly these settings, or None."""
        key = (model, accelerator, digest(settings))
        for pool in self.pools:
            if (pool.model, pool.accelerator, pool.digest) == key:
                return pool
        return None


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hex digits that change when any profiled setting changes; the order of keys does not matter."""
    text = json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_memory_profile(text: str, where: str = "calibration file") -> MemoryProfile:
    """Parse a calibration file (YAML, and so JSON too). Empty text is an empty calibration.

    Raises:
        ConfigError: not YAML, or not in this format; `where` names the file.
    """
    tree = yamlio.parse(text, where, "correct or delete the file")
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(where, "is not a mapping with the key pools", "use a file that `serve` wrote")
    try:
        return MemoryProfile.model_validate(tree or {})
    except ValidationError as error:
        raise from_validation(error, where, "correct or delete the entry") from None


def record(
    text: str,
    *,
    model: str,
    accelerator: str,
    settings: Mapping[str, Any],
    kv_bytes: int,
    read: date,
    where: str = "calibration file",
) -> str:
    """The new content of the file after a start: the pool is added, or replaces that of the same settings.

    Raises:
        ConfigError: the old content is not valid.
    """
    new = Pool(
        model=model,
        accelerator=accelerator,
        digest=digest(settings),
        kv_bytes=kv_bytes,
        read=read,
        settings=dict(settings),
    )
    key = (new.model, new.accelerator, new.digest)
    kept = [
        pool for pool in read_memory_profile(text, where).pools if (pool.model, pool.accelerator, pool.digest) != key
    ]
    pools = sorted([*kept, new], key=lambda pool: (pool.model, pool.accelerator, pool.digest))
    tree = {"pools": [pool.model_dump() for pool in pools]}
    return HEADER + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
