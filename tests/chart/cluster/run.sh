#!/usr/bin/env bash
# `make test-cluster`: a real control plane, then a whole node with the real engine, in namespaces of their own.
# `run.sh api` stops after the first. Where it cannot be built it says why; that is a skip, and no pass.
set -uo pipefail
cd "$(dirname "$0")/../../.."
tests/chart/cluster/build.sh
built=$?
[ $built = 3 ] && exit 0
[ $built = 0 ] || exit $built
export PYTHONPATH=tests/chart:tests/chart/cluster
alone() { unshare --net --mount --pid --fork --mount-proc --kill-child "$@"; }
alone true || { echo "make test-cluster: skipped: this machine gives out no namespaces" >&2; exit 0; }
suite() { alone .venv/bin/pytest -p no:cacheprovider --tb=short -v "tests/chart/cluster/$1.py"; }
suite api_server_suite || exit 1
[ "${1:-}" = api ] && exit 0
alone .venv/bin/python tests/chart/cluster/images.py || exit 1
suite cluster_suite
