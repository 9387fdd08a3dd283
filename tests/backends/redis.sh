#!/usr/bin/env bash
# Installs redis-server when it is missing: by apt, as root or through sudo. Silent when all is there.
set -euo pipefail

command -v redis-server >/dev/null && exit 0

as_root=()
[[ $(id -u) == 0 ]] || as_root=(sudo --non-interactive)
echo "installing redis-server (once)" >&2
export DEBIAN_FRONTEND=noninteractive
# Nothing may be started by the package: the tests start servers of their own.
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --yes --quiet=2 \
        --no-install-recommends redis-server redis-sentinel >&2
}
install || { "${as_root[@]}" apt-get update --quiet=2 >&2 && install; }
command -v redis-server >/dev/null
