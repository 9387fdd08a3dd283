#!/usr/bin/env bash
# Makes what the package has beside the binary: the manual page and the shells' completions. Arguments: binary, folder.
set -euo pipefail

binary=$1
folder=$2
mkdir -p "$folder"
"$binary" man >"$folder/export-gateway.1"
"$binary" completions bash >"$folder/export-gateway.bash"
"$binary" completions zsh >"$folder/_export-gateway"
"$binary" completions fish >"$folder/export-gateway.fish"
