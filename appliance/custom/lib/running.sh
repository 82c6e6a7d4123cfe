# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # custom and own_disks_path are others', and merged is not wanted here
# What can only be seen, or done, on the appliance while it runs: not in an image, and not in the installer's chroot.

# Whether the tree is the running system.
is_live() { [[ -z $root && -d /run/systemd/system && / -ef /proc/1/root ]]; }

# Prints whose the disk or partition at $1 in sysfs is; what cannot be told is foreign. It is our own helper that is asked, since there is
# none in its place before the first run.
owner_of() {
    local told
    told=$(sh "$custom/files/usr/libexec/failback/foreign-disk" identify "$1" 2>/dev/null) || true
    case $told in
    FAILBACK_DISK=system | FAILBACK_DISK=retention) printf '%s' "${told#*=}" ;;
    *) printf foreign ;;
    esac
}

# Prints the directories of all disks in sysfs.
all_disks() {
    local disk
    for disk in /sys/block/*; do
        case ${disk##*/} in
        loop* | ram* | zram* | dm-* | md* | sr* | fd* | nbd*) ;;
        # A path of multipath NVMe is hidden, and has no node.
        *) [[ ! -b /dev/${disk##*/} ]] || printf '%s\n' "$disk" ;;
        esac
    done
}

# Prints the names of foreign disks, such as sdb.
foreign_disks() {
    local disk
    while read -r disk; do
        [[ $(owner_of "$disk") != foreign ]] || printf '%s\n' "${disk##*/}"
    done < <(all_disks)
}

# Prints what uses disk $1: holders, mounts and swap space, of the disk and of its partitions.
users_of() {
    local at number name source
    for at in "/sys/block/$1" "/sys/block/$1/$1"*; do
        [[ -r $at/dev ]] || continue
        number=$(<"$at/dev") name=/dev/${at##*/}
        for source in "$at"/holders/*; do
            [[ ! -e $source ]] || printf '%s is held by %s\n' "$name" "${source##*/}"
        done
        # The device that is mounted: by number, or by name where a file system has a number of its own.
        awk -v number="$number" -v name="$name" '{ for (i = 7; $i != "-"; i++) ; if ($3 == number || $(i + 2) == name) print name " is mounted at " $5 }' \
            /proc/self/mountinfo
        awk -v name="$name" '$1 == name { print name " is swap space in use" }' /proc/swaps
    done
}

# The item: nothing uses a foreign disk.
disks_in_use() {
    local disk words
    while read -r disk; do
        while IFS= read -r words; do problem "$words"; done < <(users_of "$disk")
    done < <(foreign_disks)
}

# The item: no two disks show one name of a disk of the appliance's own.
own_copies() {
    local disk wwid uuid key shown_by
    local -A shown=()
    while read -r disk; do
        find_names "$disk"
        for key in "${uuid:+naa.$uuid}" "$wwid"; do
            [[ -n $key && -n ${own_disks[$key]:-} ]] || continue
            shown[$key]+=" /dev/${disk##*/}"
            break
        done
    done < <(all_disks)
    for key in "${!shown[@]}"; do
        read -ra shown_by <<<"${shown[$key]}"
        ((${#shown_by[@]} == 1)) || problem "${shown_by[*]} all show $key, the name of a disk of the appliance's own: those of them that are not in use are read-only"
    done
}

# The item: foreign disks are read-only, but for those that the agent has claimed: its lock shows.
disks_read_only() {
    local disk
    while read -r disk; do
        [[ $(<"/sys/block/$disk/ro") == 1 ]] || ! flock --nonblock --shared "/dev/$disk" true 2>/dev/null ||
            problem "/dev/$disk is writable, and nobody has claimed it"
    done < <(foreign_disks)
}

# The item: the system that runs was started with our arguments, and none of what is masked runs.
started_with() {
    local merged lacking unit state units=()
    merge_arguments "$(</proc/cmdline)"
    ((${#lacking[@]} == 0)) || problem "the kernel was started without ${lacking[*]}"
    while read -r _ unit; do
        # A template runs under the names of its instances.
        [[ -z $unit || $unit == [[:blank:]]* ]] || units+=("${unit/@./@*.}")
    done < <(grep -v '^#' "$custom/masked-units")
    while read -r unit _ state _; do
        [[ -z $unit ]] || problem "$unit is $state"
    done < <(systemctl list-units --plain --no-legend --state=active,activating,reloading "${units[@]}")
}

# The item: the root file system lies on the system disk, also by way of volumes and arrays. It can be told in the installer's chroot too.
own_root() {
    local number at part pending
    number=$(stat -c %Hd:%Ld / 2>/dev/null) || return 0
    [[ -e /sys/dev/block/$number ]] || return 0
    pending=("$(realpath -- "/sys/dev/block/$number")")
    while ((${#pending[@]})); do
        at=${pending[0]} pending=("${pending[@]:1}")
        if compgen -G "$at/slaves/*" >/dev/null; then
            for part in "$at"/slaves/*; do pending+=("$(realpath -- "$part")"); done
        elif [[ $at != */virtual/block/* && $(owner_of "$at") != system ]]; then
            problem "the disk of / (${at#/sys/devices/}) is not the system disk in $own_disks_path: it would be read-only after the next start"
        fi
    done
}

# Brings what was written into effect, as far as that can be done without a restart.
take_effect() {
    local disk
    systemctl daemon-reload
    udevadm control --reload
    # Events of a disk that is claimed wait until it is not.
    udevadm trigger --subsystem-match=block --action=change
    udevadm settle --timeout=60 || note 'udev is busy; going on'
    while read -r disk; do
        [[ -n $(users_of "$disk") ]] || flock --nonblock --exclusive "/dev/$disk" blockdev --setro "/dev/$disk" ||
            note "/dev/$disk is claimed; it becomes read-only when the claim ends"
    done < <(foreign_disks)
}
