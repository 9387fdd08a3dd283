#!/usr/bin/env bash
# Makes what the package has beside the binary: manual page, changelog, completions, JSON Schema. Arguments: binary, folder.
set -euo pipefail

binary=$1
folder=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$folder"
"$binary" man | gzip -9n >"$folder/export-gateway.1.gz"
gzip -9n <"$here/../../CHANGELOG.md" >"$folder/changelog.gz"
"$binary" completions bash >"$folder/export-gateway.bash"
"$binary" completions zsh >"$folder/_export-gateway"
"$binary" completions fish >"$folder/export-gateway.fish"
"$binary" schema >"$folder/gateway.schema.json"
