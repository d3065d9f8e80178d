"""Load tests: a streaming OpenAI client on locust, with metrics, SLO checks, searches and reports.

request_record, stream               one request
metrics, statistics, verdict         measures of a run, and its verdict: pure functions of the records
scenario, load_curve, prompts        what to send and when: pure, seeded
client, session, user, locustfile    what runs inside locust (gevent)
preflight, runner                    start locust and judge its records
sweep, compare                       series and pairs of runs
tables, charts, report, export       output
"""
