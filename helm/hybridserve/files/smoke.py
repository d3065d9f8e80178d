"""`helm test`: is the release ready, which model does it serve, does one completion work, and what was checked.

Arguments: the address of the service; `open` or `keys`, whether it requires API keys; seconds to wait for readiness;
`unverified`, `itself` or the digest of the reference that the engine must have been checked against.
The key is read from the file that API_KEY_FILE names. Only the standard library is used, so any image with Python
works.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_S = 120


def request(url, key=None, body=None):
    """Status and JSON of one request: (0, reason) when nothing answers, an empty object for a body that is not JSON."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = "Bearer " + key
    data = json.dumps(body).encode() if body is not None else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data, headers), timeout=TIMEOUT_S) as response:
            status, text = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    except OSError as error:
        return 0, {"error": str(error)}
    try:
        return status, json.loads(text)
    except ValueError:
        return status, {}


def expect(what, status, wanted=200):
    """Print the status; end the test when it is not the wanted status."""
    print(f"{what}: HTTP {status}", flush=True)
    if status != wanted:
        sys.exit(f"{what} returned {status} instead of {wanted}")


def is_verified(body, verified):
    """Whether /ready came from a replica with the required check. During an upgrade an old replica may answer."""
    verdict = body.get("verify", {})
    return verified == "unverified" or (
        verdict.get("passed") is True and (verified == "itself" or verdict.get("reference") == verified)
    )


def wait_until_ready(base, seconds, verified):
    """Request /ready until a replica with the required check returns 200, or the time is over."""
    end = time.monotonic() + seconds
    status, body = request(base + "/ready")
    while (status != 200 or not is_verified(body, verified)) and time.monotonic() < end:
        time.sleep(2)
        status, body = request(base + "/ready")
    if status != 200:
        print(f"/ready: {json.dumps(body)[:500]}", flush=True)
    expect("/ready", status)
    if not is_verified(body, verified):
        sys.exit(
            f"/ready: the numeric check ({verified}) has not passed on the replica that answers: {body.get('verify')}"
        )


def main(base, access, seconds, verified):
    """Run all requests; the exit code is the result."""
    key_file = os.environ.get("API_KEY_FILE")
    key = Path(key_file).read_text(encoding="utf-8").strip() if key_file else None
    wait_until_ready(base, max(0.0, seconds - 30), verified)
    if access == "keys":
        expect("/v1/models without a key", request(base + "/v1/models")[0], wanted=401)
        if key is None:
            print("no key is given (test.keySecret), so the other requests were left out")
            return
    status, models = request(base + "/v1/models", key)
    expect("/v1/models", status)
    model = models["data"][0]["id"]
    question = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "What is this?"}]}
    status, completion = request(base + "/v1/chat/completions", key, question)
    expect("/v1/chat/completions", status)
    tokens = completion["usage"]["completion_tokens"]
    print(f"{model} returned {tokens} tokens")
    if tokens < 1:
        sys.exit("the completion is empty")
    status, compliance = request(base + "/compliance", key)
    expect("/compliance", status)
    print(json.dumps(compliance)[:2000])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
