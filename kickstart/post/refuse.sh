# shellcheck shell=bash
# Ends the installation after it has begun: the new system is not finished, and the installer says that it failed.
refuse() {
    trap - ERR
    tell '' "failback: $1" 'failback: the new system is not complete. Install it again.'
    exit 1
}
