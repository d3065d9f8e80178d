"""The scenarios of `hybridserve loadtest` in locust, with its web UI and its workers on other machines.

    locust -f loadtests/scenarios.py --host http://127.0.0.1:8000 --scenario chat --headless
    hybridserve loadtest chat --url http://127.0.0.1:8000        # the same as a command

For custom users subclass ClosedLoop or OpenLoop here; for a custom shape add a LoadTestShape.
"""

from hybridserve.loadtest.locustfile import ClosedLoop, OpenLoop

__all__ = ["ClosedLoop", "OpenLoop"]
