"""Section `guard`: safety guards on input and output."""

from __future__ import annotations

from typing import Literal

from hybridserve.settings.section import Section


class GuardSection(Section):
    """Safety guards."""

    kind: Literal["none", "rules"] = "none"
    """Which guard checks requests and answers."""
