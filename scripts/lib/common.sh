# shellcheck shell=bash
# What every script shares: how it speaks, and where it finds programs. Sourced from the top of the repository.

# A non-root login on Debian has no sbin in its PATH, and root outside a login shell has no cargo.
export PATH="$PATH:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
export LC_ALL=C.UTF-8

heading() { printf '\n== %s\n' "$*"; }
note() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }
in_ci() { [[ ${CI:-} == true ]]; }
is_root() { [[ $EUID -eq 0 ]]; }

# The program as `cargo build --release` leaves it, or another one named by FAILBACK.
failback_path() { printf '%s\n' "${FAILBACK:-${CARGO_TARGET_DIR:-target}/release/failback}"; }

# Builds the program unless FAILBACK names one.
build_failback() {
    [[ -n ${FAILBACK:-} ]] || cargo build --release --locked --bin failback
    [[ -x $(failback_path) ]] || die "there is no program at $(failback_path)"
}
