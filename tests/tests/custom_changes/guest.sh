#!/bin/bash
# What runs in the guest once its system is up: looks at what has happened to the disks of others, writes to one as the agent does, and
# looks again.
set -u
# shellcheck source=tests/src/lab/guest/report.sh
. /usr/lib/failback-test/report

# The disk at this SCSI target.
target() { basename /sys/bus/scsi/devices/*:0:"$1":0/block/*; }

system_disk=/sys/block/$(target 0)

# The names of the disks of others: all but the system disk and the retention drive.
foreign() {
    local disk
    for disk in /sys/block/{sd,vd,nvme}*; do
        [[ -e $disk ]] || continue
        # One has the name of the system disk, which is the first.
        [[ $disk != "$system_disk" ]] || continue
        [[ $(cat "$disk/serial" 2>/dev/null) != retention-1 ]] || continue
        echo "${disk##*/}"
    done
}

# Every use of a disk of others, a line for each.
uses() {
    local disk at
    for disk in $(foreign); do
        for at in "/sys/block/$disk" "/sys/block/$disk/$disk"*; do
            [[ -e $at/dev ]] || continue
            find "$at/holders" -type l -printf "${at##*/} is held by %f\n"
            grep -E "^/dev/${at##*/}\b" /proc/mounts /proc/swaps
        done
    done
    dmsetup ls --noheadings 2>/dev/null | grep -v '^No devices found$' | sed 's/^/device-mapper has /'
    grep '^md' /proc/mdstat | sed 's/^/software RAID has /'
}

# What udev says of the disks of others that another program could act upon.
known() {
    local disk at
    for disk in $(foreign); do
        for at in "/sys/block/$disk" "/sys/block/$disk/$disk"*; do
            [[ -e $at/dev ]] || continue
            udevadm info --query=property "$at" | grep -E '^(ID_FS_|ID_PART_ENTRY_TYPE|SYSTEMD_WANTS|DM_MULTIPATH_DEVICE_PATH=1)' |
                sed "s/^/${at##*/}: /"
        done
    done
    local link
    for link in /dev/disk/by-{uuid,label,partuuid}/*; do
        for disk in $(foreign); do
            [[ $(readlink -f "$link") != "/dev/$disk"* ]] || echo "$link leads to $disk"
        done
    done
}

# The disks of others that can be written to. A reader without a medium cannot.
writable() {
    local disk
    for disk in $(foreign); do
        [[ $(cat "/sys/block/$disk/size") != 0 ]] || continue
        [[ $(blockdev --getro "/dev/$disk") == 1 ]] || echo "$disk"
    done
}

# Waits until the card is in the reader, as a person would who only looks; and prints whether it is read-only.
inserted() {
    local attempt
    for attempt in {1..300}; do
        [[ $(cat "/sys/block/$1/size") == 0 ]] || break
        sleep 0.1
    done
    udevadm settle --timeout=60
    ((attempt < 300)) && cat "/sys/block/$1/ro"
}

# Writes one block to a member of the mirror, as any program would.
scribble() { head -c 4096 /dev/zero | tr '\0' 'x' | dd of="/dev/$1" bs=4096 seek=1024 conv=notrunc,fsync oflag=direct status=none; }

# As the agent does: a lock and an exclusive open for as long as it writes, and read-only again after that.
claim_and_write() {
    local disk=/dev/$1 claim
    exec {claim}<"$disk" || return
    flock --exclusive --nonblock "$claim" || return
    blockdev --setrw "$disk" || return
    # Events that would make it read-only wait for as long as it is claimed.
    udevadm trigger --action=add "/sys/block/$1"
    udevadm trigger --action=change "/sys/block/$1"
    # Once an event of another disk that comes later is handled, they have had their turn.
    udevadm trigger --settle --action=change "$system_disk"
    scribble "$1" || return
    blockdev --setro "$disk"
    exec {claim}<&-
}

system() {
    touch /written /home/written || return
    mountpoint -q /home || return
    grep -q partition /proc/swaps || return
    echo "the system is as it should be"
}

retention() {
    local at=/var/lib/failback/retention
    [[ $(findmnt -n -o SOURCE "$at") == /dev/vd* ]] || return
    [[ $(cat "/sys/block/$(basename "$(findmnt -n -o SOURCE "$at")")/serial") == retention-1 ]] || return
    echo kept >"$at/written" && sync "$at/written"
}

# As a person would who has not thought of whose disks these are.
careless() {
    vgchange --activate y strange || return
    mount /dev/strange/data /mnt || return
    touch /mnt/written
    umount /mnt
}

# Records the name of two disks that are alike as one of this machine's own, and attaches first one of them and then the other. Prints of
# each whether it is read-only, and how many links by UUID lead to it and its partitions: of the first alone, then of both.
alike() {
    local number host disks=()
    host=$(basename "$(realpath /sys/bus/scsi/devices/*:0:2:0/../..)")
    echo 'retention naa.5000c29000000002' >>/etc/failback/own-disks
    for number in 2 10; do echo 1 >"/sys/bus/scsi/devices/${host#host}:0:$number:0/delete"; done
    udevadm settle --timeout=60
    for number in 10 2; do
        echo "0 $number 0" >"/sys/class/scsi_host/$host/scan"
        for _ in {1..300}; do
            ! compgen -G "/sys/bus/scsi/devices/*:0:$number:0/block/sd*/dev" >/dev/null || break
            sleep 0.1
        done
        sleep 1
        udevadm settle --timeout=60
        disks+=("$(target "$number")")
        state_of "${disks[@]}"
    done
}

state_of() {
    local disk link count
    for disk in "$@"; do
        count=0
        for link in /dev/disk/by-{uuid,partuuid}/*; do
            [[ $(readlink -f "$link") != "/dev/$disk"* ]] || count=$((count + 1))
        done
        echo "$(cat "/sys/block/$disk/ro") $count"
    done
}

udevadm settle --timeout=60
member=$(target 4)
reader=$(target 9)
result said grep -c 'both show naa.5000c29000000001' <(dmesg)
result uses uses
result known known
result writable writable
result check /usr/libexec/failback/apply-custom-changes --check --json
result scribbled scribble "$member"
result careless careless
result written claim_and_write "$member"
udevadm settle --timeout=60
result empty cat "/sys/block/$reader/size"
result inserted inserted "$reader"
result uses-later uses
# Where they have not been made, they can be made while it runs.
if [[ -e /usr/libexec/failback/foreign-disk ]]; then
    result alike alike
else
    result again /usr/libexec/failback/apply-custom-changes
fi
result writable-later writable
result system system
result retention retention
result uptime cat /proc/uptime
sync
umount /var/lib/failback/retention
echo END >/dev/ttyS1
echo b >/proc/sysrq-trigger
