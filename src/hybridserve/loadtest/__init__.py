"""Load tests: a streaming OpenAI client on locust, its measures, gates, searches and reports.

record, sse        one request: what was seen, and when
metrics, statistics, slo   what a run means: pure arithmetic over records
scenario, arrivals, curves, prompts   what to send, and when: pure, seeded
client, user, shapes, locustfile      the edge that runs inside locust (gevent)
run, search, compare, report          the edge that starts locust and writes what it found

The code lives in the package, so that `hybridserve loadtest` works from a wheel; `loadtests/` at the root of the
repository holds the locustfile for plain `locust -f` and the mock server.
"""
