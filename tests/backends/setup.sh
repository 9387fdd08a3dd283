#!/usr/bin/env bash
# Installs what the real parts run on into .parts/ (or $EXPORT_GATEWAY_PARTS). Quick and silent when all is there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
parts=${EXPORT_GATEWAY_PARTS:-$(cd "$here/../.." && pwd)/.parts}
pins=("$here/requirements.txt" "$here/workers/package.json" "$here/workers/package-lock.json")

# The stamp is a hash of all pins and of this script: whoever changes one gets a new set-up.
stamp=$(cat "${pins[@]}" "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1)

up_to_date() {
    [[ -r $parts/stamp && $(<"$parts/stamp") == "$stamp" && -x $parts/venv/bin/python && -x $parts/workerd ]]
}

up_to_date && exit 0

mkdir -p "$parts"
exec 9>"$parts/lock"
command -v flock >/dev/null && flock 9 # Whoever came second finds the work done.
up_to_date && exit 0

echo "setting up the real parts in $parts (once, about a minute)" >&2
python=$(command -v python3.11 || command -v python3)
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed, $python is older" >&2
    exit 1
}

rm -rf "$parts/stamp" "$parts/venv" "$parts/node" "$parts/workerd"
"$python" -m venv "$parts/venv"
"$parts/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --requirement "$here/requirements.txt" >&2

mkdir -p "$parts/node"
cp "${pins[1]}" "${pins[2]}" "$parts/node/"
(cd "$parts/node" && npm ci --loglevel=error --no-audit --no-fund --no-update-notifier >/dev/null)

# Node is needed no more: this is the runtime's own executable.
ln -s "$(cd "$parts/node" && node -p "require('workerd').default")" "$parts/workerd"
"$parts/workerd" --version >/dev/null

echo "$stamp" >"$parts/stamp.new"
mv "$parts/stamp.new" "$parts/stamp"
