"""Shared by every test."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# The machines that run this are shared and slow at times: a slow draw is not a fault of the code under test.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# A shell without job control starts background commands with SIGINT ignored, and so would be every program that a test
# starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
