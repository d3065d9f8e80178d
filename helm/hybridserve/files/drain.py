"""preStop hook of a Ray worker: let Ray Serve move the replicas away, then stop Ray.

Ray marks the node as draining; Serve starts replacements on other nodes and stops the replicas here when these are
ready, or when the deadline leaves just the time that open streams may take. The hook ends when no replica and no proxy
is left, or when its time is over.

Arguments: seconds for which the node still answers, until clients have removed it; seconds of the whole hook.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

PREEMPTION = 2  # ray.core.generated.autoscaler_pb2.DrainNodeReason: a request that the node cannot refuse


def drain(address, deadline):
    """Ask Ray to drain this node until the deadline (Unix time); why it does not, or None.

    By Ray's own client, not by `ray drain-node`: the command imports Ray once more, which takes seconds that the open
    streams need on a busy machine.
    """
    import ray
    from ray._raylet import GcsClient

    ip = os.environ.get("POD_IP") or ray.util.get_node_ip_address()
    client = GcsClient(address=address)
    for node, info in client.get_all_node_info(timeout=5).items():
        if info.node_manager_address == ip and info.state == 0:
            words = (node.hex(), PREEMPTION, "the pod is being stopped", int(deadline * 1000))
            accepted, reason = client.drain_node(*words, timeout=5)
            return None if accepted else reason
    return f"the head knows no node {ip}"


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
    begin = time.time()
    end = begin + total_s
    address = os.environ.get("RAY_ADDRESS", "")
    failure = "RAY_ADDRESS is not set"
    while address and time.time() < end:
        try:
            failure = drain(address, end)
        except Exception as error:  # the head is busy, or the whole cluster stops
            failure = repr(error)
        if failure is None:
            break
        print(f"event=drain_failed error={failure!r}", flush=True)
        time.sleep(1)
    print(f"event=drain started={failure is None} after={time.time() - begin:.1f} seconds={total_s}", flush=True)
    time.sleep(settle_s)
    while time.time() < end and (serving() or failure is not None):
        time.sleep(1)
    subprocess.run(["ray", "stop"], timeout=20, check=False)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
