#!/usr/bin/env python3
"""Whether the container's own server is ready, for HEALTHCHECK: the answer in one line, exit 0 or 1."""

import os
import sys
import urllib.error
import urllib.request

URL = f"http://127.0.0.1:{os.environ.get('HYBRIDSERVE_SERVER__PORT', '8000')}/ready"


def main() -> int:
    """Ask once; returns the exit code."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(URL, timeout=5) as answer:
            print(answer.status)
            return 0
    except urllib.error.HTTPError as error:
        print(f"HTTP {error.code} {error.read(200).decode(errors='replace')}")
    except OSError as error:
        print(f"no answer: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
