#!/usr/bin/env python3
"""Docker HEALTHCHECK: requests /ready, prints one line, exits with 0 or 1."""

import os
import sys
import urllib.error
import urllib.request

URL = f"http://127.0.0.1:{os.environ.get('HYBRIDSERVE_SERVER__PORT', '8000')}/ready"


def main() -> int:
    """Send one request; returns the exit code."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(URL, timeout=5) as response:
            print(response.status)
            return 0
    except urllib.error.HTTPError as error:
        print(f"HTTP {error.code} {error.read(200).decode(errors='replace')}")
    except OSError as error:
        print(f"no response: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
