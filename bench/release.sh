#!/usr/bin/env bash
# Builds the release binary, target/release/export-gateway: optimised by the profile of a training run on the real parts
# (bench/train.py) where this machine can make one; else a plain release, and it says so.
#
#   PGO=auto (default) | require (fail rather than build plain) | off          arguments go to cargo: --offline, …
#
# A profile needs llvm-profdata of rustc's own LLVM (Debian's llvm-NN, or rustup's llvm-tools), Python 3.11 and Node 20.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=${PGO:-auto}
target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")
binary=$target/release/export-gateway
profile=export-gateway.profdata # Beside the source, for builds in containers: --build-arg PGO_PROFILE=export-gateway.profdata
host=$(rustc -vV | sed -n 's/^host: //p')
llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')

say() { echo "release: $*" >&2; }

# A profile can be read by tools of the same major version only.
profdata() {
    local tool
    for tool in "${LLVM_PROFDATA:-}" "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" \
        "/usr/lib/llvm-$llvm/bin/llvm-profdata" "llvm-profdata-$llvm" llvm-profdata; do
        tool=$(command -v "${tool:-none-given}") || continue
        [[ $("$tool" --version) =~ LLVM\ version\ $llvm\. ]] && { echo "$tool"; return; }
    done
    return 1
}

# build FOLDER FLAG. Without cargo's --target, whose functions have other names: the profile would be of no use to a build
# without it. So build scripts and macros are instrumented, too; their profiles are thrown away.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $2" CARGO_TARGET_DIR=$target/pgo/$1 LLVM_PROFILE_FILE=$target/pgo/build-scripts/%m.profraw \
        cargo build --release --locked "${cargo[@]}"
}

with_profile() {
    local tool profiles=$target/pgo/profiles
    tool=$(profdata) || {
        why="no llvm-profdata $llvm: apt-get install llvm-$llvm, or rustup component add llvm-tools"
        return 1
    }
    rm -rf "$profiles" && mkdir -p "$profiles"
    say "1/3 an instrumented build"
    build generate "-Cprofile-generate=$profiles" || { why="the instrumented build failed"; return 1; }
    say "2/3 a training run between the real parts"
    # %m: one file per binary, merged by the processes themselves.
    LLVM_PROFILE_FILE=$profiles/%m-%p.profraw \
        python3 bench/train.py --gateway "$target/pgo/generate/release/export-gateway" >&2 ||
        { why="the training run failed"; return 1; }
    "$tool" merge --output="$profile" "$profiles"/*.profraw || { why="the profiles could not be merged"; return 1; }
    say "3/3 the build that uses its profile"
    rm -rf "$target/pgo/use" # Cargo does not see that a profile has changed.
    build use "-Cprofile-use=$PWD/$profile" || { why="the build with the profile failed"; return 1; }
    # Not cp: cargo's own file may be hard-linked there.
    mkdir -p "$target/release" && install -m 755 "$target/pgo/use/release/export-gateway" "$binary"
}

cargo=("$@")
why="PGO=off"
if [[ $mode != off ]] && with_profile; then
    say "$binary is optimised by a profile (PGO)"
    exit 0
fi
[[ $mode == require ]] && { say "no profile: $why"; exit 1; }
say "PLAIN build, without a profile ($why); it needs some 10 % more CPU"
CARGO_TARGET_DIR=$target cargo build --release --locked "${cargo[@]}"
say "$binary is a plain release"
