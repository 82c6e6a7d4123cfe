# shellcheck shell=dash
# Which boot arguments are refused: one rule for the live ISO and for its builder. Sourced, after keys-and-names.sh.

# Reads boot arguments, one a line and without their quotes. Prints a line for each that is refused: its name, a tab, and why. As an
# argument that stands there twice may mean two things, neither of them is meant.
refused_arguments() {
    seen=' '
    while IFS= read -r word; do
        name=${word%%=*} value=
        case $word in
        failback.*=*) value=${word#*=} ;;
        failback.*) ;;
        *) continue ;;
        esac
        case $name in
        failback.sshkey) ;;
        failback.ip | failback.nic | failback.hostname | failback.retention | failback.run | failback.then)
            case $seen in
            *" $name "*) refuse_argument "the boot argument $name stands there twice: leave one of them out" ;;
            esac
            seen="$seen$name "
            ;;
        *)
            refuse_argument "the boot argument $name is not known: correct it, or leave it out"
            continue
            ;;
        esac
        if [ -z "$value" ]; then
            refuse_argument "the boot argument $name has no value: write $name=VALUE, or leave it out"
        else
            check_value
        fi
    done
}

refuse_argument() { printf '%s\t%s\n' "$name" "$1"; }

# What a value is to be, as far as it shows by itself. That of a key is not repeated: it may be anything that was pasted there.
check_value() {
    case $name=$value in
    failback.sshkey=disk) ;;
    failback.sshkey=*)
        is_public_key "$value" ||
            refuse_argument "a failback.sshkey is no public ssh key: give one whole line of a .pub file, in double quotes, or the word disk"
        ;;
    failback.hostname=*)
        is_host_name "$value" ||
            refuse_argument "failback.hostname=$value is no host name: use letters, digits and hyphens, and dots between its parts, 63 at most"
        ;;
    failback.retention=format:?* | failback.retention=UUID=?* | failback.retention=LABEL=?*) ;;
    failback.retention=*) refuse_argument "failback.retention=$value is not understood: it is UUID=…, LABEL=… or format:WWID" ;;
    failback.then=poweroff | failback.then=shell) ;;
    failback.then=*) refuse_argument "failback.then=$value is not understood: it is poweroff or shell" ;;
    esac
}
