"""Shared by every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The machines that run this are shared and slow at times: a slow draw is not a fault of the code under test.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
