# shellcheck shell=bash
# What the scripts of this directory share. They run in namespaces of their own, with the menu and a place for files as arguments.
set -euo pipefail
menu=$1 place=$2

# Nothing of what is written goes to the machine that this runs on.
mount -t tmpfs tmpfs /run
cp -a /etc /run/etc
mount --bind /run/etc /etc

ip link set lo up
ip link add eth0 type veth peer name server
ip link set server up

fail() {
    printf 'FAILED: %s\n' "$*"
    cat -- "$place/said"
    exit 1
}

# Runs the menu with the arguments from $2 on and wants exit code $1. What it says is in $place/said.
wants() {
    local code=0 wanted=$1
    shift
    PATH=$MENU_PATH sh "$menu" "$@" >"$place/said" 2>&1 || code=$?
    [[ $code -eq $wanted ]] || fail "network $*: exit code $code, not $wanted"
}

# What was said has $1 in it.
said() { grep -Fq -- "$1" "$place/said" || fail "'$1' was not said"; }

# eth0 has exactly these global addresses.
has() {
    local found
    found=$(ip -o addr show dev eth0 scope global | awk '{ print $4 }' | xargs)
    [[ $found == "$*" ]] || fail "eth0 has '$found', not '$*'"
}
