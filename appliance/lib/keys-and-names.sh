# shellcheck shell=sh
# What is a public SSH key, and what a name of a host: one rule for the kickstart, for the live ISO and for its builder. Sourced, by bash
# as by busybox.

# Whether $1 is a line of a .pub file or of authorized_keys (sshd(8)), where options may stand before the key, and no comment.
is_public_key() {
    printf '%s\n' "$1" | grep -qE '^[[:space:]]*([^#[:space:]].*[[:space:]])?(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)[[:space:]]+[A-Za-z0-9+/]{60,}={0,2}([[:space:]]|$)'
}

# Whether $1 is one: letters, digits and hyphens, in parts with points between them. A part has 63 at most (RFC 1035), and the kernel
# takes 64 in all (HOST_NAME_MAX).
is_host_name() {
    case .$1. in
    *[!A-Za-z0-9.-]* | *..* | *.-* | *-.*) return 1 ;;
    esac
    [ "${#1}" -le 63 ]
}
