# shellcheck shell=bash
# How the scripts of the kickstart speak: on every console, since nobody knows which one is looked at.

# Prints the names of the terminals that somebody may look at: those that the kernel writes to, the first screen, the first serial line.
consoles() {
    local active
    active=$(cat /sys/class/tty/console/active 2>/dev/null) || active=
    # Names without blanks, one word each.
    # shellcheck disable=SC2086
    printf '%s\n' tty1 ttyS0 $active | sort -u
}

# Says something on every console, and in the script's log. A terminal that is not there, or has no line behind it, is passed over.
tell() {
    local terminal
    printf '%s\n' "$@"
    for terminal in $(consoles); do
        [[ ! -e /dev/$terminal ]] || { printf '%s\r\n' "$@" >>"/dev/$terminal"; } 2>/dev/null || true
    done
}

# Ends the installation before it has begun. The sentence stays on the screen, and is said again each minute, since others write there
# too; if that ends, so does the installer.
refuse() {
    local -a sentence=('' "failback: $1" "${@:2}"
        'failback: nothing was written to any disk. Correct the boot arguments, and restart this machine.')
    trap - ERR
    tell "${sentence[@]}"
    while sleep 60; do tell "${sentence[@]}"; done
    exit 1
}

# Whatever fails unforeseen in the choice of a disk ends the installation as well.
set -Eeuo pipefail
trap 'refuse "an unexpected error in line $LINENO of the kickstart script: $BASH_COMMAND"' ERR
