"""Readiness probe of a Ray worker: may a client be sent to this pod?

Ray's proxy on this node answers for it (`/-/healthz`): it says no while it drains, half a minute before it stops, when
it still forwards requests to replicas on other nodes. And a replica's guard must have answered (`/ready`).

Argument: the port of the proxy.
"""

import socket
import sys


def answers(port, path):
    """Whether a GET of this path is answered with 200."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(64).split(b" ")[1:2] == [b"200"]


def main(port):
    """Exit code 0: ready."""
    try:
        for path in ("/-/healthz", "/ready"):
            if not answers(port, path):
                sys.exit(f"{path} is not 200")
    except OSError as error:
        sys.exit(f"no proxy: {error}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
