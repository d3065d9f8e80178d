"""The one table of what differs between engine versions: `engines.yaml`, typed."""

from __future__ import annotations
