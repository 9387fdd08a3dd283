#!/usr/bin/env bash
# Makes the images that FROM names, on a machine without a registry: Debian's by debootstrap, Rust's and Python's on it.
# Into the storage of $STORAGE_CONF; quick when they are there already. Argument: a scratch folder.
set -euo pipefail

scratch=$1
rust_image=$2
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
toolchain=$(rustc --print sysroot)

has() { buildah images --quiet "$1" >/dev/null 2>&1; }

# One image from a folder: name, folder, then options of `buildah config`.
commit() {
    local name=$1 folder=$2 container
    shift 2
    container=$(buildah from scratch)
    buildah copy --quiet "$container" "$folder" / >/dev/null
    buildah config "$@" "$container"
    buildah commit --quiet --format docker "$container" "$name" >/dev/null
    buildah rm "$container" >/dev/null
}

bootstrap() {
    local folder=$1 packages=$2
    [[ -e $folder/.done ]] && return
    rm -rf "$folder"
    debootstrap --variant=minbase --include="$packages" bookworm "$folder" "$mirror" >"$folder.log" 2>&1 || {
        tail -n 20 "$folder.log" >&2
        return 1
    }
    rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
    touch "$folder/.done"
}

path=PATH=/usr/local/cargo/bin:/usr/local/rustup/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

if ! has docker.io/library/debian:bookworm-slim; then
    bootstrap "$scratch/debian" ca-certificates
    commit docker.io/library/debian:bookworm-slim "$scratch/debian" --env "$path" --cmd bash
fi
if ! has "docker.io/library/$rust_image"; then
    # The toolchain itself is mounted at build: it is this machine's.
    bootstrap "$scratch/rust" ca-certificates,gcc,libc6-dev
    commit "docker.io/library/$rust_image" "$scratch/rust" --env "$path" --env CARGO_HOME=/usr/local/cargo
fi
if ! has docker.io/library/python:3.11-slim-bookworm; then
    bootstrap "$scratch/python" ca-certificates,python3,python3-venv,python3-pip
    ln -sf python3 "$scratch/python/usr/bin/python"
    commit docker.io/library/python:3.11-slim-bookworm "$scratch/python" --env "$path"
fi
if ! has docker.io/library/redis:7-bookworm; then
    bootstrap "$scratch/redis" ca-certificates,redis-server
    commit docker.io/library/redis:7-bookworm "$scratch/redis" --env "$path" --user redis --entrypoint '["redis-server"]'
fi
echo "$toolchain"
