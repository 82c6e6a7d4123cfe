# shellcheck shell=bash
# How the scripts of the kickstart speak: on every console, since nobody knows which one is looked at.

# Prints the names of the terminals that somebody may look at: those that the kernel writes to, the first screen, the first serial line.
# The kernel's tty0 is whichever screen is shown.
consoles() {
    local active shown
    active=$(cat /sys/class/tty/console/active 2>/dev/null) || active=
    shown=$(cat /sys/class/tty/tty0/active 2>/dev/null) || shown=
    active=${active/#tty0/$shown}
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

# Whatever fails unforeseen ends the installation as well.
set -Eeuo pipefail
trap 'refuse "an unexpected error in line $LINENO of the kickstart script: $BASH_COMMAND"' ERR
