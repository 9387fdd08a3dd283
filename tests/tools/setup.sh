#!/usr/bin/env bash
# Installs the tools that checks run on into .parts/tools (or below $EXPORT_GATEWAY_PARTS): cargo-deny as a ready binary,
# and a validator of JSON Schema. Quick and silent when all is there; prints nothing but on failure.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${EXPORT_GATEWAY_PARTS:-$(cd "$here/../.." && pwd)/.parts}/tools
stamp=$(cat "$here/requirements.txt" "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1)

up_to_date() {
    [[ -r $tools/stamp && $(<"$tools/stamp") == "$stamp" && -x $tools/bin/python ]]
}

up_to_date && exit 0

mkdir -p "$tools"
exec 9>"$tools.lock"
command -v flock >/dev/null && flock 9 # Whoever came second finds the work done.
up_to_date && exit 0

echo "setting up the tools in $tools (once)" >&2
python3 -m venv --clear "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --requirement "$here/requirements.txt" >&2
echo "$stamp" >"$tools/stamp.new"
mv "$tools/stamp.new" "$tools/stamp"
