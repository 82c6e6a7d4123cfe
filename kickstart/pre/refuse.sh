# shellcheck shell=bash
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
