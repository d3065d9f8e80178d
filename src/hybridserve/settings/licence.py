"""Section `licence`: how the weights reach the machine and what the operator declares."""

from __future__ import annotations

from typing import Literal

from hybridserve.settings.section import Section


class LicenceSection(Section):
    """Delivery of the weights and the operator's declarations."""

    weights: Literal["baked", "pulled", "mounted"] = "mounted"
    """How the weights are delivered. Only `baked` (inside an image) counts as redistribution."""
