"""What `helm test` asks of a release: is it ready, which model, one completion, what was checked.

Arguments: the address of the service, and `open` or `closed`: whether it asks for API keys. The key is read from the
file that API_KEY_FILE names. Only the standard library is used, so that any image with Python will do.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_S = 120


def ask(url, key=None, body=None):
    """Status and JSON of one request; an answer that is no JSON is an empty object."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = "Bearer " + key
    data = json.dumps(body).encode() if body is not None else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data, headers), timeout=TIMEOUT_S) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    except OSError as error:
        sys.exit(f"{url} cannot be reached: {error}")
    try:
        return status, json.loads(text)
    except ValueError:
        return status, {}


def expect(what, status, wanted=200):
    """Say what was seen; end the test where it is not what was wanted."""
    print(f"{what}: HTTP {status}", flush=True)
    if status != wanted:
        sys.exit(f"{what} answered {status} instead of {wanted}")


def main(base, door):
    """Ask everything; the exit code is the verdict."""
    key_file = os.environ.get("API_KEY_FILE")
    key = Path(key_file).read_text(encoding="utf-8").strip() if key_file else None
    expect("/ready", ask(base + "/ready")[0])
    if door == "closed":
        expect("/v1/models without a key", ask(base + "/v1/models")[0], wanted=401)
        if key is None:
            print("no key was given (test.keySecret): the rest was not asked")
            return
    status, models = ask(base + "/v1/models", key)
    expect("/v1/models", status)
    model = models["data"][0]["id"]
    question = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "What is this?"}]}
    status, answer = ask(base + "/v1/chat/completions", key, question)
    expect("/v1/chat/completions", status)
    tokens = answer["usage"]["completion_tokens"]
    print(f"{model} answered {tokens} tokens")
    if tokens < 1:
        sys.exit("the answer is empty")
    status, compliance = ask(base + "/compliance", key)
    expect("/compliance", status)
    print(json.dumps(compliance)[:2000])


main(sys.argv[1], sys.argv[2])
