# shellcheck shell=bash
# Which disks there are, which one is which, and what is on them. Everything here only reads.
# shellcheck disable=SC2154 # `wwid` and `uuid` are set by find_names of wwid.sh.

disks=()
declare -A bytes_of=() wwid_of=()

readonly mib=1048576

# Prints the first line of a file in sysfs without blanks at its end; nothing if it is not there or cannot be read.
value() {
    local line=
    line=$(head -n 1 -- "$1" 2>/dev/null) || true
    printf '%s' "${line%"${line##*[![:space:]]}"}"
}

device_of() { printf '/dev/%s' "${1//!//}"; }

# Finds the disks: what holds data and is not made of other block devices, of memory or of a file. Each has the name that it has in
# own-disks.
list_disks() {
    local directory name sectors wwid uuid
    disks=()
    for directory in /sys/block/*; do
        name=${directory##*/}
        case $name in loop* | ram* | zram* | sr* | fd* | dm-* | md* | nbd*) continue ;; esac
        # One of several paths to an NVMe disk, which is listed by another name.
        [[ $(value "$directory/hidden") != 1 ]] || continue
        sectors=$(value "$directory/size")
        [[ $sectors =~ ^[1-9][0-9]*$ ]] || continue
        disks+=("$name")
        bytes_of[$name]=$((sectors * 512))
        find_names "$directory"
        wwid_of[$name]=${wwid:-$uuid}
    done
}

# Brings an identity into the form in which two are compared: with or without the `naa.` of sysfs or the `wwn-0x` of /dev/disk/by-id,
# in large or small letters, and with an underscore for blanks, which are awkward in a boot argument.
comparable() {
    local text=${1,,} fields digits
    text=${text#wwn-} text=${text#0x} text=${text#naa.}
    # vSphere writes the UUID with hyphens, and a VMX file with spaces.
    digits=${text//[ -]/}
    [[ ! $digits =~ ^[0-9a-f]{32}$ ]] || text=$digits
    read -ra fields <<<"$text"
    local IFS=_
    printf '%s' "${fields[*]}"
}

# Prints the disks that have this identity, one on each line.
disks_with() {
    local name wanted
    wanted=$(comparable "$1")
    for name in "${disks[@]}"; do
        [[ -z ${wwid_of[$name]} || $(comparable "${wwid_of[$name]}") != "$wanted" ]] || printf '%s\n' "$name"
    done
}

# Prints the sources of mounts and swap space that lie on a disk, each with its place.
uses_of() {
    local source place device
    device=$(device_of "$1")
    while read -r source place _; do
        case $source in "$device" | "$device"[0-9]* | "$device"p[0-9]*) printf '%s %s\n' "$source" "$place" ;; esac
    done <<<"$(cat /proc/mounts /proc/swaps)"
}

# Whether the installation itself runs from this disk, or has its kickstart from it: a stick with an ISO on it.
is_medium() {
    local uses
    uses=$(uses_of "$1")
    [[ $uses == *' /run/'* || $(probe TYPE "$(device_of "$1")") == iso9660 ]]
}

# Prints why a disk is not at rest; nothing if it is.
not_at_rest() {
    local uses holder
    uses=$(uses_of "$1")
    if [[ -n $uses ]]; then
        printf 'is in use (%s)' "${uses%%$'\n'*}"
        return
    fi
    for holder in /sys/block/"$1"/holders/* /sys/block/"$1"/"$1"*/holders/*; do
        [[ ! -e $holder ]] || { printf 'is held by %s' "${holder##*/}" && return; }
    done
    [[ $(value "/sys/block/$1/ro") != 1 ]] || printf 'is read-only'
}

# Prints one thing that blkid finds at the start of a device: TYPE, PTTYPE, UUID or LABEL.
probe() { blkid -p -o value -s "$1" "$2" 2>/dev/null || true; }

# Whether a MiB of a device, read from byte $2 on, is there and zero.
is_zero() {
    local piece=/tmp/failback/piece
    dd if="$1" of="$piece" bs=64K iflag=fullblock,skip_bytes skip="$2" count=16 2>/dev/null || return 1
    [[ $(wc -c <"$piece") -eq $mib && $(tr -d '\0' <"$piece" | wc -c) -eq 0 ]]
}

# Prints in words what is on a disk; nothing if it is empty: no partition, no signature that blkid or wipefs knows, and zeroes at both
# ends. What cannot be read is not empty.
content_of() {
    local name=$1 device entry parts=0 kind signatures
    device=$(device_of "$name")
    for entry in /sys/block/"$name"/"$name"*/partition; do
        [[ ! -e $entry ]] || parts=$((parts + 1))
    done
    kind=$(probe PTTYPE "$device")
    if ((parts > 0)) || [[ -n $kind ]]; then
        printf 'a partition table (%s) with %d partitions' "${kind:-unknown}" "$parts"
        return
    fi
    kind=$(probe TYPE "$device")
    if [[ -n $kind ]]; then
        printf 'a signature of %s' "$kind"
        return
    fi
    if ! signatures=$(wipefs --no-act --parsable "$device" 2>/dev/null); then
        printf 'what cannot be read'
    elif [[ -n $(sed '/^#/d' <<<"$signatures") ]]; then
        printf 'a signature that wipefs knows'
    elif ! is_zero "$device" 0 || ! is_zero "$device" $((bytes_of[$name] - mib)); then
        printf 'data at its begin or its end'
    fi
}

# Prints a line for each disk, for those who have to name one.
describe_disks() {
    local name about
    for name in "${disks[@]}"; do
        if is_medium "$name"; then about='the installation medium'; else about=$(content_of "$name"); fi
        printf '  %-8s %7d MiB  %s  (%s)\n' "$name" $((bytes_of[$name] / mib)) "${wwid_of[$name]:-no WWID}" "${about:-empty}"
    done
}
