# shellcheck shell=dash
# Which disk it is, as the kernel tells it: names that stay, whatever else is attached. Sourced by udev's helper, by the live ISO and by
# the kickstart. The agent has the same rule in Rust; tests/tests/disk_names holds all of them to one table.
#
# It is run for every event of a disk, also before the root file system is there, so it starts no other program.

# Names are bytes. This also keeps a letter's range what it says.
LC_ALL=C

# Sets `folded` to $1 with one space for every run of blanks, and none at its ends: vendors pad their names.
fold_blanks() {
    local tab='	'
    folded=$1
    while :; do
        case $folded in
        *"$tab"*) folded="${folded%%"$tab"*} ${folded#*"$tab"}" ;;
        *'  '*) folded="${folded%%  *} ${folded#*  }" ;;
        *) break ;;
        esac
    done
    folded=${folded# } folded=${folded% }
}

# Sets `name` to the first line of file $1, folded; to nothing if there is none such, or not of plain text, or if own-disks could not hold
# it, since the end of it would be a comment there.
read_name() {
    local folded
    name=''
    { IFS= read -r name <"$1" || [ -n "$name" ]; } 2>/dev/null || return 0
    case $name in *[!\ -~]* | *' #'*) name='' ;; esac
    fold_blanks "$name"
    name=$folded
}

# Whether $1 has the form of a WWID: one of those that Linux makes for SCSI and NVMe, or what stands for one with virtio. Only where
# vendors put names and serial numbers in it may it have blanks.
is_wwid() {
    case $1 in
    t10.[!\ ]* | virtio-[!\ ]*) ;;
    *' '*) return 1 ;;
    naa.?* | eui.?* | iqn.?* | uuid.?* | nvme.?*) ;;
    *) return 1 ;;
    esac
}

# Sets `uuid` to the SCSI UUID that $1 writes, 32 hex digits in small letters: behind `naa.`, or in pairs, between which a blank or a hyphen
# may stand. It is nothing if $1 is none, or has one byte over and over.
find_uuid() {
    local rest=${1#naa.} pair first same=yes
    first=${rest%"${rest#??}"}
    uuid=''
    case $1 in naa.*[\ -]*) return ;; esac
    while [ -n "$rest" ]; do
        case $rest in
        [0-9A-Fa-f][0-9A-Fa-f]*) ;;
        *) uuid='' && return ;;
        esac
        pair=${rest%"${rest#??}"} rest=${rest#??}
        [ "$pair" = "$first" ] || same=no
        uuid=$uuid$pair
        case $rest in [\ -]?*) rest=${rest#?} ;; esac
    done
    if [ "${#uuid}" -ne 32 ] || [ "$same" = yes ]; then uuid='' && return; fi
    while :; do
        case $uuid in
        *A*) uuid=${uuid%%A*}a${uuid#*A} ;;
        *B*) uuid=${uuid%%B*}b${uuid#*B} ;;
        *C*) uuid=${uuid%%C*}c${uuid#*C} ;;
        *D*) uuid=${uuid%%D*}d${uuid#*D} ;;
        *E*) uuid=${uuid%%E*}e${uuid#*E} ;;
        *F*) uuid=${uuid%%F*}f${uuid#*F} ;;
        *) break ;;
        esac
    done
}

# Sets `uuid` to what stands as serial number on the VPD page 0x80 in file $1, if that is 32 hex digits.
read_serial() {
    local page='' more='' mark folded
    uuid=''
    {
        IFS= read -r page || :
        IFS= read -r more || :
    } 2>/dev/null <"$1" || return 0
    # Of the header a shell sees the number of the page and its length: it skips bytes that are zero.
    [ -n "$page" ] && [ -z "$more" ] || return 0
    mark=$(printf '\200')
    case $page in
    # A length below 32.
    *"$mark"[[:cntrl:]]*) return 0 ;;
    *"$mark"?*) fold_blanks "${page#*"$mark"?}" ;;
    *) return 0 ;;
    esac
    case $folded in
    *[!0-9A-Fa-f]*) ;;
    *) find_uuid "$folded" ;;
    esac
}

# Sets `wwid` to the WWID of the disk at $1 in sysfs, and `uuid` to its SCSI UUID, which is what VMware calls it; each to nothing if the
# disk has none. The UUID is a WWID of 16 bytes, or the serial number where the kernel has made no such WWID.
find_names() {
    local name
    wwid='' uuid=''
    read_name "$1/device/wwid"
    is_wwid "$name" || read_name "$1/wwid"
    if ! is_wwid "$name"; then
        name=''
        case ${1##*/} in
        vd*)
            read_name "$1/serial"
            name=${name:+virtio-$name}
            ;;
        esac
    fi
    wwid=$name
    case $wwid in naa.6*) find_uuid "$wwid" ;; esac
    [ -n "$uuid" ] || read_serial "$1/device/vpd_pg80"
}
