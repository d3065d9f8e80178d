#!/usr/bin/env bash
# Build what the GPU machine lacks, from PyPI, into DEST/part.* (default ./.gpukit): vLLM's wheel without what two
# models on a Hopper card never run, and the Python packages that machine does not have. Needs pip 23 or newer, xz, tar,
# 3 GB of disk; takes 2 to 8 minutes. The kit's scripts and models are copied beside the parts.
#
#   build_parts.sh [DEST]
#   WHOLE=1 build_parts.sh [DEST]     also DEST-whole/part.*: the one pruned library as it was, for a second transfer
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
DEST=${1:-.gpukit}
VLLM=0.29.0
SIZE=${SIZE:-52M} # of one part; one transfer takes 64 MiB less the working tree
PYTHON=${PYTHON:-python3}
mkdir -p "$DEST"
DEST=$(cd "$DEST" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

fetch() { # into $WORK/wheels, for Python 3.12 on x86-64 Linux
    local plat=()
    for n in 5 17 24 26 27 28 31 34 35; do plat+=(--platform "manylinux_2_${n}_x86_64"); done
    plat+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)
    "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --abi cp312 --abi abi3 --abi none "${plat[@]}" -d "$WORK/wheels" "$@" 2> >(grep -v ^WARNING >&2 || true)
}

fetch "vllm==$VLLM"
fetch -r "$HERE/wheels.txt"
mkdir -p "$WORK/tree/site" "$WORK/vllm"
"$PYTHON" - "$WORK" <<'PY'
import sys, zipfile
from pathlib import Path
work = Path(sys.argv[1])
for wheel in sorted((work / "wheels").glob("*.whl")):
    target = work / ("vllm" if wheel.name.startswith("vllm-") else "tree/site")
    with zipfile.ZipFile(wheel) as z:
        for name in z.namelist():
            head, _, rest = name.partition("/")
            if head.endswith(".data"):  # purelib and platlib belong in the folder itself; scripts are not needed
                kind, _, inner = rest.partition("/")
                if kind not in ("purelib", "platlib") or not inner or name.endswith("/"):
                    continue
                path = target / inner
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(z.read(name))
            else:
                z.extract(name, target)
PY

# vLLM: its Python, and the libraries that NemotronH and Qwen3 in bfloat16 call on Hopper.
tar -C "$WORK/vllm" -cf - --exclude='*.so' --exclude='vllm/vllm-rs' --exclude='vllm/third_party/deep_gemm' \
    --exclude='vllm/third_party/fmha_sm100/cutlass' . | tar -C "$WORK/tree/site" -xf -
for so in cumem_allocator spinloop fs_io_C vllm_flash_attn/_vllm_fa3_C; do
    cp "$WORK/vllm/vllm/$so.abi3.so" "$WORK/tree/site/vllm/$so.abi3.so"
done
"$PYTHON" "$HERE/fatbin_prune.py" "$WORK/vllm/vllm/_C_stable_libtorch.abi3.so" \
    "$WORK/tree/site/vllm/_C_stable_libtorch.abi3.so" --sm 90
# Data that nothing here reads.
rm -rf "$WORK/tree/site/pycountry/locales" "$WORK/tree/site/mistral_common/data" "$WORK/tree/site/supervisor/ui"
find "$WORK/tree/site" -type d \( -name __pycache__ -o -name tests -o -name test \) -prune -exec rm -rf {} +
# What vLLM would find out by importing each model in a process of its own, 10 s or more a model.
mkdir -p "$WORK/tree/cache/modelinfos"
cp "$HERE"/modelinfos/*.json "$WORK/tree/cache/modelinfos/"

# Kernels that Triton compiled earlier, if there are any (README.md): saves about half a minute there.
if [ -e "$HERE/triton-cache.tar.xz" ]; then mkdir -p "$WORK/tree/triton" && tar -C "$WORK/tree/triton" -xf "$HERE/triton-cache.tar.xz"; fi

rm -f "$DEST"/part.* "$DEST"/SHA256
tar -C "$WORK/tree" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - . |
    xz -T2 -6 | split -b "$SIZE" -d -a 2 - "$DEST/part."
(cd "$DEST" && sha256sum part.* >SHA256)
if [ "${WHOLE:-}" ]; then
    mkdir -p "$DEST-whole"
    rm -f "$DEST-whole"/part.*
    tar -C "$WORK/vllm" --mtime=@0 --owner=0 --group=0 -cf - vllm/_C_stable_libtorch.abi3.so |
        xz -T2 -6 | split -b "$SIZE" -d -a 2 - "$DEST-whole/part."
fi
cp -r "$HERE"/{unpack.sh,measure.py,steps.py,engine.py,request_runner.py,probe.py,instant_prefill.py,models} "$DEST/"
rm -rf "$DEST"/models/*-tiny "$DEST"/models/*-short
du -b "$DEST"/part.* "$DEST-whole"/part.* 2>/dev/null || true
