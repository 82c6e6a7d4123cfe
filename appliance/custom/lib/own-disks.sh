# shellcheck shell=bash
# shellcheck disable=SC2154 # root is the script's, folded and uuid are set by wwid.sh
# /etc/failback/own-disks: which disks are the appliance's own. Lines `ROLE WWID`; ROLE is system or retention, WWID is what the
# kernel says of the disk, or its SCSI UUID; `#` begins a comment. What is not understood is refused: a disk of others could get in by it.

declare -A own_disks=() # WWID, as which a SCSI UUID has `naa.` before it -> role
own_disks_path=/etc/failback/own-disks
# A line for each disk that an appliance can have, many times over.
own_disks_limit=65536

# Says what is wrong with line $1 of the file.
refuse_line() { refuse "line $1 of $own_disks_path $2; write lines such as 'system naa.6000c29...', from /sys/block/sda/device/wwid"; }

# Reads the file into `own_disks`.
read_own_disks() {
    local at text line number=0
    find_place "$own_disks_path"
    [[ -e $at || -L $at ]] ||
        refuse "$own_disks_path is missing: name the system disk and the retention drive in it, one 'ROLE WWID' a line"
    [[ -f $at && ! -L $at ]] || refuse "$own_disks_path is no plain file; put a file of your own in its place"
    [[ $(stat -c %u -- "$at") =~ ^(0|$EUID)$ && ! $(stat -c %A -- "$at") =~ ^.....w|^........w ]] ||
        refuse "others than root may change $own_disks_path: chown root $own_disks_path; chmod 644 $own_disks_path"
    (($(stat -c %s -- "$at") <= own_disks_limit)) || refuse "$own_disks_path is larger than $own_disks_limit bytes; it has other content than disks"
    read_file text "$at" || refuse "$own_disks_path holds bytes that are no text; write it again"
    own_disks=()
    while IFS= read -r line; do
        number=$((number + 1))
        read_own_disk "$number" "$line"
    done <<<"$text"
    [[ " ${own_disks[*]} " == *" system "* ]] || refuse "$own_disks_path names no system disk; add a line 'system WWID'"
}

# Reads line $2, which is number $1.
read_own_disk() {
    local number=$1 line=$2 role wwid folded uuid
    [[ $line =~ ^[[:print:][:blank:]]*$ ]] || refuse_line "$number" "holds a character that is no plain text"
    read -r role wwid <<<"$line"
    [[ -n $role && $role != \#* ]] || return 0
    fold_blanks "${wwid%%[[:blank:]]#*}"
    wwid=$folded
    find_uuid "$wwid"
    [[ -z $uuid ]] || wwid=naa.$uuid
    [[ $role == system || $role == retention ]] || refuse_line "$number" "begins with '$role', which is neither system nor retention"
    is_wwid "$wwid" || refuse_line "$number" "names '$wwid', which is neither a WWID of the kernel's nor a SCSI UUID"
    [[ -z ${own_disks[$wwid]:-} ]] || refuse_line "$number" "names $wwid once more"
    own_disks[$wwid]=$role
}
