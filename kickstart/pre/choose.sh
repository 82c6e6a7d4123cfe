# shellcheck shell=bash
# Which disk becomes the system disk and which one the retention disk. Never guessed: what is unclear is refused.
# shellcheck disable=SC2154 # `argument`, `disks`, `bytes_of` and `wwid_of` are filled by arguments.sh and disks.sh.
# shellcheck disable=SC2034 # What is set here is for keys.sh and answers.sh.

system=''
retention=''
# What failback.retention= makes of it: "format", or the UUID and the type of the file system that is there, on `retention_device`.
retention_kind=''
retention_device=''

# What kickstart/pre/answers.sh puts on the system disk, with the boot loader's partitions.
readonly least_system_mib=20480
# Less than that keeps no useful number of recovery points.
readonly least_retention_mib=1024

# Refuses, and shows the disks that there are.
refuse_disk() {
    local lines
    lines=$(describe_disks)
    refuse "$1" 'failback: the disks of this machine are:' "${lines:-  none}"
}

# Sets `chosen` to the one disk that has the identity $2; $1 is the boot argument that names it, $3 the least size in MiB.
choose_disk() {
    local by=$1 wwid=$2 least=$3 found reason
    found=$(disks_with "$wwid")
    [[ -n $found ]] || refuse_disk "no disk has the WWID $wwid that $by names; write one of those below."
    [[ $found != *$'\n'* ]] ||
        refuse_disk "several disks have the WWID $wwid that $by names (${found//$'\n'/, }); detach all but one of them."
    ! is_medium "$found" || refuse_disk "$by names $found, which this installation runs from; name another disk."
    reason=$(not_at_rest "$found")
    [[ -z $reason ]] || refuse_disk "$by names $found, which $reason; name another disk, or detach what uses it."
    [[ ${bytes_of[$found]} -ge $((least * mib)) ]] ||
        refuse_disk "$by names $found, which has less than $least MiB; make it larger, or name another disk."
    chosen=$found
}

# Sets `system`: the disk that failback.system= names, or the only one there is.
choose_system() {
    local named=${argument[failback.system]:-} wwid content name count=0
    if [[ -z $named ]]; then
        for name in "${disks[@]}"; do
            is_medium "$name" || { count=$((count + 1)) && system=$name; }
        done
        ((count > 0)) || refuse_disk 'there is no disk to install on; attach one, and restart.'
        ((count == 1)) ||
            refuse_disk 'there are several disks, and none is named as the system disk; add failback.system=WWID to the boot arguments.'
        named=${wwid_of[$system]}
        [[ -n $named ]] ||
            refuse_disk "the disk $system shows no WWID, so it could not be told from others later; set disk.EnableUUID = TRUE on a VMware machine, or give the disk a serial number."
    fi
    wwid=${named#erase:}
    choose_disk failback.system "$wwid" "$least_system_mib"
    system=$chosen
    content=$(content_of "$system")
    [[ -z $content || ${argument[failback.system]:-} == erase:* ]] ||
        refuse_disk "the system disk $system is not empty, it has $content; if all of it may be destroyed, write failback.system=erase:${wwid_of[$system]}."
}

# Sets `retention` to the disk that failback.retention= names, and `retention_kind`.
choose_retention() {
    local named=${argument[failback.retention]:-} content
    case $named in
    '') return ;;
    format:?*)
        choose_disk failback.retention "${named#format:}" "$least_retention_mib"
        retention=$chosen retention_kind=format
        [[ $retention != "$system" ]] || refuse_disk "failback.retention= and failback.system= name the same disk, $system; name two."
        content=$(content_of "$retention")
        [[ -z $content ]] ||
            refuse_disk "the retention disk $retention is not empty, it has $content; name an empty disk, or name its file system with failback.retention=UUID=…"
        ;;
    UUID=?* | LABEL=?*) choose_file_system "${named%%=*}" "${named#*=}" ;;
    *) refuse "failback.retention=$named is not understood; write UUID=…, LABEL=… or format:WWID." ;;
    esac
}

# Finds the one file system with the UUID or LABEL $2 on any disk but the system disk.
choose_file_system() {
    local name entry device found='' uuid type
    for name in "${disks[@]}"; do
        for entry in "/sys/block/$name" /sys/block/"$name"/"$name"*; do
            [[ $entry == "/sys/block/$name" || -e $entry/partition ]] || continue
            device=$(device_of "${entry##*/}")
            [[ $(probe "$1" "$device") == "$2" ]] || continue
            [[ -z $found ]] ||
                refuse_disk "several file systems have the $1 $2 that failback.retention= names ($found and $device); detach all but one of them."
            found=$device retention=$name
        done
    done
    [[ -n $found ]] || refuse_disk "no file system has the $1 $2 that failback.retention= names; attach its disk, or correct the argument."
    [[ $retention != "$system" ]] || refuse_disk "failback.retention= names a file system on the system disk $system; name one on another disk."
    [[ -n ${wwid_of[$retention]} ]] ||
        refuse_disk "the retention disk $retention shows no WWID, so it could not be told from others later; set disk.EnableUUID = TRUE on a VMware machine, or give the disk a serial number."
    choose_disk failback.retention "${wwid_of[$retention]}" 1
    uuid=$(probe UUID "$found") type=$(probe TYPE "$found")
    [[ $type == xfs || $type == ext4 ]] ||
        refuse_disk "failback.retention= names $found, which has ${type:-no file system}; the retention drive is an xfs or an ext4."
    retention_device=$found retention_kind="$uuid $type"
}

# Sets all other disks read-only, so that nothing in the installer can write to them, whatever it takes them for.
protect_others() {
    local name
    for name in "${disks[@]}"; do
        [[ $name != "$system" && $name != "$retention" ]] || continue
        # What the installation runs from; what only looks like it is as foreign as the others.
        [[ $(uses_of "$name") != *' /run/'* ]] || continue
        blockdev --setro "$(device_of "$name")" ||
            refuse "the disk $name cannot be set read-only; detach it for the time of the installation."
    done
}
