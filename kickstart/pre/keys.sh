# shellcheck shell=bash
# The keys that may log in as root, whose password is locked: without one nobody could.
# shellcheck disable=SC2154 # `keys` is filled by arguments.sh, `retention_device` and `retention_kind` by choose.sh.

# Prints the keys of the file authorized_keys on the retention drive, which is mounted for a moment and not changed: its journal is
# left alone.
keys_on_retention() {
    local at=/run/failback-retention untouched=noload
    mkdir -p "$at"
    [[ $retention_kind != *' xfs' ]] || untouched=norecovery
    mount -r -o "$untouched" "$retention_device" "$at" || return 1
    sed '/^[[:space:]]*\(#\|$\)/d' "$at/authorized_keys" || true
    umount "$at"
}

# Writes /tmp/failback/authorized_keys.
read_keys() {
    local key found to=/tmp/failback/authorized_keys
    : >"$to"
    for key in "${keys[@]}"; do
        if [[ $key == disk ]]; then
            [[ -n $retention_device ]] ||
                refuse 'failback.sshkey=disk wants a retention drive that is there already; add failback.retention=UUID=… or give the key itself.'
            found=$(keys_on_retention 2>/dev/null) || found=
            [[ -n $found ]] || refuse "there is no file authorized_keys with a key on the retention drive $retention_device; put one there, or give the key itself."
            printf '%s\n' "$found" >>"$to"
        else
            printf '%s\n' "$key" >>"$to"
        fi
    done
    [[ -s $to ]] ||
        refuse 'no ssh key is named, and nobody could log in without one; add failback.sshkey="ssh-ed25519 …" to the boot arguments, with the quotes.'
    while IFS= read -r key; do
        is_public_key "$key" ||
            refuse "this is no public ssh key: $key; give one whole line of a .pub file, in quotes."
    done <"$to"
}
