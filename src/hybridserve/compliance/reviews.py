"""When a license was last read: for the catalog, or by the person who accepted it."""

from __future__ import annotations

from datetime import date

from hybridserve.compliance.placeholders import is_placeholder
from hybridserve.settings.license import LicenseSection


def accepted_on(section: LicenseSection, license_id: str, today: date) -> date | None:
    """The latest day on which a person accepted this license, and so read it; None if nobody did until today."""
    days = (
        record.accepted
        for record in section.accepted
        if record.license == license_id and record.accepted <= today and not is_placeholder(record.by)
    )
    return max(days, default=None)


def last_review(section: LicenseSection, license_id: str, read: date, today: date) -> date:
    """The later one of the day of acceptance and `read`, the day of the review for the catalog."""
    return max(read, accepted_on(section, license_id, today) or read)
