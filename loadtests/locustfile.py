"""Streaming load on an OpenAI-compatible server, by plain locust.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --scenario chat --headless
    hybridserve loadtest chat --url http://127.0.0.1:8000        # the same, with gate and report

Your own users: subclass ClosedLoop or OpenLoop here, or give a LoadTestShape of your own.
"""

from hybridserve.loadtest.locustfile import ClosedLoop, OpenLoop

__all__ = ["ClosedLoop", "OpenLoop"]
