#!/usr/bin/env bash
# Checks dependencies by deny.toml: licences, where they come from, versions below a floor, duplicates. All but the
# advisories, whose list is on the internet.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/setup.sh"
cd "$here/../.."
# What cargo has not downloaded yet; the check itself asks nobody.
cargo fetch --locked --quiet
tools=${EXPORT_GATEWAY_PARTS:-$PWD/.parts}/tools
exec "$tools/bin/cargo-deny" --offline --locked --log-level warn check -D warnings --hide-inclusion-graph licenses bans sources
