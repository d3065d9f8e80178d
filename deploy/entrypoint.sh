#!/bin/sh
# Reports in one line what this container lacks, then executes hybridserve, or vLLM (`vllm serve`) for a guard model.
# Errors in the settings are reported by hybridserve itself.
set -eu

CGROUPS=${CGROUPS:-/sys/fs/cgroup}
DEVICES=${DEVICES:-/dev}
# Named CONTAINER_..., because hybridserve refuses a HYBRIDSERVE_... that is not one of its settings.
NEEDED_MIB=${CONTAINER_NEEDS_MEMORY_MIB:-4096}
TMP_MIB=${CONTAINER_NEEDS_TMP_MIB:-256}

refuse() {
    echo "hybridserve: $1; $2" >&2
    exit 2
}

case ${1:-serve} in
    serve) program=hybridserve ;;
    vllm) program= ;;
    *) exec hybridserve "$@" ;;
esac

# Compose passes an unset variable as an empty argument.
for word; do
    [ -n "$word" ] || refuse "an argument of \"$*\" is empty" "set what is missing in .env (GUARD_MODEL, GUARD_REVISION)"
done

# Secrets are files. Docker mounts a missing file as an empty folder.
for name in HYBRIDSERVE_ACCESS__KEYS_FILE HYBRIDSERVE_GUARD__API_KEY_FILE HF_TOKEN_PATH; do
    eval "file=\${$name:-}"
    [ -n "$file" ] || continue
    [ ! -d "$file" ] || refuse "the secret $file is a folder" "create the file on the host before the container"
    [ -e "$file" ] || refuse "the secret $file is missing" "mount it, or unset $name"
    [ -r "$file" ] || refuse "the secret $file cannot be read by uid $(id -u)" "chmod 640 it on the host, with its group in SECRETS_GID"
    [ -s "$file" ] || refuse "the secret $file is empty" "hybridserve key makes one"
done

if [ "${CONTAINER_NEEDS_GPU:-0}" = 1 ] && [ ! -e "$DEVICES/nvidiactl" ] && [ ! -e "$DEVICES/dxg" ]; then
    refuse "no GPU is visible in this container" "install nvidia-container-toolkit, then compose --profile gpu or docker run --gpus all"
fi

# The memory limit of the container: cgroup v2, then v1.
for file in "$CGROUPS/memory.max" "$CGROUPS/memory/memory.limit_in_bytes"; do
    [ -r "$file" ] || continue
    limit=$(cat "$file")
    # "max", or v1's number with 19 digits, means no limit.
    if [ "$limit" != max ] && [ ${#limit} -lt 16 ] && [ $((limit / 1048576)) -lt "$NEEDED_MIB" ]; then
        refuse "the container may use $((limit / 1048576)) MiB of memory and needs $NEEDED_MIB" "raise its limit (compose: MEMORY)"
    fi
    break
done

for folder in /tmp "${HF_HOME:-/tmp}"; do
    while [ ! -e "$folder" ]; do folder=$(dirname "$folder"); done
    [ -w "$folder" ] || refuse "$folder cannot be written by uid $(id -u)" "mount a volume or tmpfs that it owns"
    free=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge "$TMP_MIB" ] || refuse "$folder has $free MiB free and needs $TMP_MIB" "free some space, or use a larger volume"
done

exec $program "$@"
