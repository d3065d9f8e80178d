"""preStop hook of a Ray worker: let Ray Serve move the replicas away, then stop Ray.

Ray marks the node as draining; Serve starts replacements on other nodes and stops the replicas here when these are
ready.
The hook ends when no replica and no proxy is left, or when the time is over.

Arguments: seconds for which the node still answers, until clients have removed it; seconds of the whole hook.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

REASON = "DRAIN_NODE_REASON_PREEMPTION"


def own_node(address):
    """Hex id of this node, or None when the head does not know it."""
    import ray
    from ray._raylet import GcsClient

    ip = os.environ.get("POD_IP") or ray.util.get_node_ip_address()
    for node, info in GcsClient(address=address).get_all_node_info().items():
        if info.node_manager_address == ip and info.state == 0:
            return node.hex()
    return None


def drain(address, seconds):
    """Ask Ray to drain this node; False when that is not possible, as when the whole cluster stops."""
    try:
        node = own_node(address)
    except Exception as error:
        print(f"event=drain_failed error={error!r}", flush=True)
        return False
    if node is None:
        return False
    words = ["ray", "drain-node", "--address", address, "--node-id", node, "--reason", REASON]
    words += ["--reason-message", "the pod is being stopped", "--deadline-remaining-seconds", str(seconds)]
    return subprocess.run(words, timeout=30, check=False).returncode == 0


def serving():
    """Whether a replica or a proxy of Ray Serve runs in this container."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = entry.read_bytes()
        except OSError:
            continue
        if title.startswith((b"ray::ServeReplica", b"ray::ProxyActor", b"ray::HAProxyManager")):
            return True
    return False


def main(settle_s, total_s):
    """Drain, wait, stop."""
    end = time.monotonic() + total_s
    address = os.environ.get("RAY_ADDRESS", "")
    drained = bool(address) and drain(address, total_s)
    print(f"event=drain started={drained} seconds={total_s}", flush=True)
    time.sleep(settle_s)
    while time.monotonic() < end and (serving() or not drained):
        time.sleep(1)
    subprocess.run(["ray", "stop"], timeout=20, check=False)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
