#!/usr/bin/env bash
# Installs what `make deploy-test` needs of the machine (Debian 12, as root), and cargo-deb into .parts/deploy/cargo.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
parts=${EXPORT_GATEWAY_DEPLOY_PARTS:-${EXPORT_GATEWAY_PARTS:-$(cd "$here/../.." && pwd)/.parts}/deploy}
packages=(buildah podman runc conmon netavark aardvark-dns iptables debootstrap systemd-container docker.io docker-compose
    lintian shellcheck nginx haproxy redis-server iproute2 man-db)

missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
    echo "installing ${missing[*]}" >&2
    apt-get update --quiet=2
    # Services of these packages stay as they are: none is started.
    printf '#!/bin/sh\nexit 101\n' >/tmp/policy-rc.d.$$
    [[ -e /usr/sbin/policy-rc.d ]] || { install -m 755 "/tmp/policy-rc.d.$$" /usr/sbin/policy-rc.d && trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
    rm -f "/tmp/policy-rc.d.$$"
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null
fi

[[ -x $parts/cargo/bin/cargo-deb ]] || {
    echo "installing cargo-deb (once, two minutes)" >&2
    CARGO_TARGET_DIR=$parts/cargo-target cargo install --quiet --locked --version 3.8.0 --root "$parts/cargo" cargo-deb
    rm -rf "$parts/cargo-target"
}
"$here/setup.sh"
