#!/usr/bin/env bash
# Makes the images that FROM names, on a machine without a registry: by debootstrap, with this machine's Node.
# Into the storage of $STORAGE_CONF; quick when they are there already. Argument: a scratch folder.
set -euo pipefail

scratch=$1
rust_image=$2
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

has() { buildah images --quiet "$1" >/dev/null 2>&1; }

# One image from a folder: name, folder, then options of `buildah config`.
commit() {
    local name=$1 folder=$2 container
    shift 2
    container=$(buildah from scratch)
    # As an archive: `copy` of a folder would make root the owner of everything.
    tar -C "$folder" --exclude=./.done -cf "$folder.tar" .
    buildah add --quiet "$container" "$folder.tar" / >/dev/null
    rm "$folder.tar"
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

# Builds trust what this machine trusts: its bundle is mounted at this path.
bundle=/etc/ssl/certs/ca-certificates.crt
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
    commit docker.io/library/python:3.11-slim-bookworm "$scratch/python" --env "$path" --env "PIP_CERT=$bundle"
fi
if ! has docker.io/library/redis:7-bookworm; then
    bootstrap "$scratch/redis" ca-certificates,redis-server
    mkdir -p "$scratch/redis/data"
    chroot "$scratch/redis" chown redis:redis /data
    commit docker.io/library/redis:7-bookworm "$scratch/redis" --env "$path" --user redis --entrypoint '["redis-server"]'
fi
if ! has docker.io/library/node:20-bookworm-slim; then
    # This machine's Node, which .parts needs anyway.
    bootstrap "$scratch/node" ca-certificates,libstdc++6,libatomic1
    install -D "$(readlink -f "$(command -v node)")" "$scratch/node/usr/local/bin/node"
    mkdir -p "$scratch/node/usr/local/lib/node_modules"
    cp -a "$(dirname "$(dirname "$(readlink -f "$(command -v npm)")")")" "$scratch/node/usr/local/lib/node_modules/npm"
    ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$scratch/node/usr/local/bin/npm"
    commit docker.io/library/node:20-bookworm-slim "$scratch/node" --env "$path" --env "NODE_EXTRA_CA_CERTS=$bundle"
fi
