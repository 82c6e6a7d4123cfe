# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # root, mode, custom and changed are the script's
# What is switched off, item by item. Each function is for both modes, through the functions of edit.sh.

comment_mark='#failback: '

# A file of ours from the directory `files`, to the same path in the tree, or to $3.
ensure_shipped() {
    local content
    read_file content "$custom/files$1" || die "$custom/files$1 is damaged; install failback-appliance again"
    ensure_file "${3:-$1}" "$content" "$2"
}

udev_rules() {
    ensure_shipped /usr/libexec/failback/foreign-disk 755
    ensure_shipped /usr/libexec/failback/wwid.sh 644
    ensure_shipped /etc/udev/rules.d/59-failback-foreign-disks.rules 644
    ensure_shipped /etc/udev/rules.d/63-failback-foreign-disks.rules 644
}

# The units of group $1.
masked_units() {
    local units=() group unit
    while read -r group unit; do
        [[ $group != "$1" ]] || units+=("$unit")
    done <"$custom/masked-units"
    ensure_masks /etc/systemd/system "${units[@]}"
}

generators() { ensure_masks /etc/systemd/system-generators systemd-gpt-auto-generator lvm2-activation-generator; }

# Comments out those lines of file $2 that function $1 says yes to; $3 is what is wrong with the file otherwise. If $4 is `continued`, a
# line that begins with a blank belongs to the one before it.
comment_out() {
    local wrong=$1 path=$2 text lines number next logical
    read_place text "$path"
    [[ -n $text ]] || return 0
    mapfile -t lines <<<"${text%$'\n'}"
    for ((number = 0; number < ${#lines[@]}; number = next)); do
        logical=${lines[number]} next=$((number + 1))
        while [[ ${4:-} == continued && ${lines[next]:-} == [[:blank:]]* ]]; do
            logical+=" ${lines[next]}" next=$((next + 1))
        done
        "$wrong" "$logical" || continue
        for (( ; number < next; number++)); do lines[number]=$comment_mark${lines[number]}; done
    done
    ensure_edited "$path" "$(printf '%s\n' "${lines[@]}")"$'\n' "$path $3"
}

# LVM ---------------------------------------------------------------------------------------------------------------------------

lvm_devices=/etc/lvm/devices/system.devices

# Sets `own_groups` to the volume groups that the appliance's own command line names.
find_own_groups() {
    local named name
    own_groups=()
    values_of named rd.lvm.lv rd.lvm.vg
    for name in "${named[@]}"; do
        name=${name%%/*}
        [[ " ${own_groups[*]} " == *" $name "* || ! $name =~ ^[A-Za-z0-9+_.-]+$ ]] || own_groups+=("$name")
    done
}

# Whether an entry of LVM's devices file names a disk of others.
is_foreign_entry() {
    local kind name wwid
    [[ $1 == *IDTYPE=* ]] || return 1
    [[ $1 != \#* ]] || return 1
    [[ $1 =~ IDTYPE=([^[:blank:]]+) ]] && kind=${BASH_REMATCH[1]}
    [[ $1 =~ IDNAME=([^[:blank:]]+) ]] && name=${BASH_REMATCH[1]}
    [[ ${kind:-} != sys_serial ]] || name=virtio-${name:-}
    for wwid in "${!own_disks[@]}"; do
        # LVM writes blanks of a WWID as underscores.
        [[ $(tr -s ' _' _ <<<"$wwid") != "$(tr -s _ <<<"${name:-}")" ]] || return 1
    done
}

# LVM sees only the devices that its devices file names; one that is missing means all of them.
lvm_devices() {
    local text own_groups
    find_own_groups
    read_place text "$lvm_devices"
    if ((${#own_groups[@]})) && ! grep -q '^[^#]*IDTYPE=' <<<"$text"; then
        problem "the appliance itself lies on LVM (${own_groups[*]}), and $lvm_devices does not name its disks: run lvmdevices --adddev for each partition of its own, and this again"
    elif ! is_there "$lvm_devices"; then
        ensure_edited "$lvm_devices" $'# No device is LVM\'s: disks of others are none of this machine\'s business.\n' \
            "$lvm_devices is missing, which lets LVM take all disks"
    else
        comment_out is_foreign_entry "$lvm_devices" "names disks that are not the appliance's own"
    fi
}

# Our settings are the end of lvmlocal.conf: of two values the later counts.
lvm_settings() {
    local path=/etc/lvm/lvmlocal.conf text own_groups block list='' name events=0
    local begin='# failback: begin. Made by apply-custom-changes; changes in here are lost.' end='# failback: end.'
    find_own_groups
    for name in "${own_groups[@]}"; do list+="${list:+, }\"$name\""; done
    ((${#own_groups[@]} == 0)) || events=1
    block="$begin
devices { use_devicesfile = 1 }
global { event_activation = $events }
activation {
    auto_activation_volume_list = [ $list ]
    monitoring = 0
}
$end"
    read_place text "$path"
    if [[ $text == *"$begin"*"$end"* ]]; then
        text=${text%%"$begin"*}${text#*"$end"}
    fi
    text=${text%"${text##*[!$'\n']}"}
    ensure_edited "$path" "${text:+$text$'\n'}$block"$'\n' "$path does not keep LVM from foreign disks"
}

# Software RAID ------------------------------------------------------------------------------------------------------------------

# Whether a line of mdadm's allows arrays to be assembled that are not named on our own command line.
is_assembling() {
    local words uuid
    read -ra words <<<"$1"
    [[ $1 != [[:blank:]]* ]] || return 1
    case ${words[0]:-} in
    [Aa][Uu][Tt] | [Aa][Uu][Tt][Oo]) [[ "${words[*]:1}" != -all ]] ;;
    [Aa][Rr][Rr] | [Aa][Rr][Rr][Aa] | [Aa][Rr][Rr][Aa][Yy])
        [[ ${words[1]:-} != '<ignore>' ]] || return 1
        for uuid in "${own_arrays[@]}"; do
            [[ " ${words[*],,} " != *" uuid=${uuid,,} "* ]] || return 1
        done
        ;;
    *) return 1 ;;
    esac
}

md_settings() {
    local path=/etc/mdadm.conf at file own_arrays
    # Debian's place.
    if is_there /etc/mdadm; then path=/etc/mdadm/mdadm.conf; fi
    values_of own_arrays rd.md.uuid
    # It comes first, and of two AUTO lines the first counts.
    ensure_file "$path.d/00-failback.conf" $'# No array is assembled of what is found. Made by apply-custom-changes; changes here are lost.\nAUTO -all\n' 644
    find_place "$path.d/x"
    for file in "$path" "${at%/*}"/*.conf; do
        [[ $file == "$path" ]] || file=$path.d/${file##*/}
        [[ $file != *'/*.conf' && $file != */00-failback.conf ]] || continue
        comment_out is_assembling "$file" 'lets arrays be assembled (AUTO, ARRAY)' continued
    done
}

# Multipath ----------------------------------------------------------------------------------------------------------------------

# Whether a line excepts devices from the blacklist. Keeps in `in_exceptions` where it is.
is_exception() {
    local line=${1%%#*}
    case $line in
    *blacklist_exceptions*\{*) in_exceptions=yes ;;
    *\}*) in_exceptions='' ;;
    *) [[ -n $in_exceptions && $line =~ ^[[:blank:]]*devnode[[:blank:]] ]] && return 0 ;;
    esac
    return 1
}

multipath_settings() {
    local at file in_exceptions=''
    ensure_shipped /etc/multipath/conf.d/00-failback.conf 644
    find_place /etc/multipath/conf.d/x
    for file in /etc/multipath.conf "${at%/*}"/*.conf; do
        [[ $file == /etc/multipath.conf ]] || file=/etc/multipath/conf.d/${file##*/}
        [[ $file != *'/*.conf' && $file != */00-failback.conf ]] || continue
        in_exceptions=''
        comment_out is_exception "$file" 'takes devices out of the blacklist (blacklist_exceptions, devnode)'
    done
}

# Starting -----------------------------------------------------------------------------------------------------------------------

dracut_conf=/etc/dracut.conf.d/60-failback.conf

# The modules of dracut that assemble and activate, but for those that the appliance's own root needs; and our rules for the time
# before the root is there.
dracut_settings() {
    local omitted='dmraid multipath btrfs bcache iscsi fcoe fcoe-uefi nvmf stratis systemd-repart' own
    values_of own rd.lvm.lv rd.lvm.vg
    ((${#own[@]})) || omitted+=' lvm'
    values_of own rd.md.uuid
    ((${#own[@]})) || omitted+=' mdraid'
    values_of own rd.luks.uuid rd.luks.name
    ((${#own[@]})) || omitted+=' crypt'
    ensure_file "$dracut_conf" "# Foreign disks are left alone and read-only in the initramfs too. Made by apply-custom-changes; changes here are lost.
omit_dracutmodules+=\" $omitted \"
install_optional_items+=\" /etc/udev/rules.d/59-failback-foreign-disks.rules /etc/udev/rules.d/63-failback-foreign-disks.rules \"
install_optional_items+=\" /usr/libexec/failback/foreign-disk /usr/libexec/failback/wwid.sh /etc/failback/own-disks /usr/sbin/blockdev \"
" 644
}

# Every initramfs is newer than what goes into it. That of kdump is renewed by kdump itself, and the rescue image, which is made once,
# is kept from disks by the kernel's arguments.
initramfs() {
    local at image source old=()
    find_place /boot/x
    for image in "${at%/*}"/initramfs-*.img; do
        [[ -f $image && $image != *kdump.img && $image != *-rescue-* ]] || continue
        for source in "$dracut_conf" /etc/failback/own-disks /usr/libexec/failback/{foreign-disk,wwid.sh} \
            /etc/udev/rules.d/{59,63}-failback-foreign-disks.rules; do
            find_place "$source"
            if [[ $at -nt $image ]]; then
                old+=("/boot/${image##*/}")
                break
            fi
        done
    done
    ((${#old[@]})) || return 0
    if [[ $mode == apply && -z $root ]] && command -v dracut >/dev/null; then
        dracut --force --regenerate-all || die "dracut failed: repair what it names, and run this again"
        changed=1
        note "wrote ${old[*]}"
    else
        problem "${old[*]} is older than what belongs into it"
    fi
}

# What is mounted -------------------------------------------------------------------------------------------------------------------

# Names of the kernel's are given anew at each start: what is mounted by such a name is another disk one day.
device_tables() {
    local path text device where rest group own_groups
    find_own_groups
    for path in /etc/fstab /etc/crypttab; do
        read_place text "$path"
        while read -r device where rest; do
            # In crypttab the device comes second.
            [[ $path == /etc/fstab ]] || device=$where where=swap
            [[ -n $device && $device != \#* && " $rest " != *[\ ,]noauto[\ ,]* ]] || continue
            if [[ $device =~ ^/dev/(sd|vd|xvd|nvme|hd) ]]; then
                problem "$path names $device, which is another disk after the next start: write UUID=… as blkid prints it"
            elif [[ $device =~ ^/dev/mapper/(([^-]|--)+)-[^-] && $device != /dev/mapper/luks-* ]]; then
                group=${BASH_REMATCH[1]//--/-}
                [[ " ${own_groups[*]} " == *" $group "* ]] ||
                    problem "$path mounts $device at $where, and LVM is off for its group: if it is the appliance's own, give the kernel rd.lvm.vg=$group and run this again"
            fi
        done <<<"$text"
    done
}

is_foreign_dump() {
    [[ $1 =~ ^[[:blank:]]*raw[[:blank:]] || $1 =~ ^[[:blank:]]*(ext[234]|xfs|btrfs|minix)[[:blank:]]+/dev/(sd|vd|xvd|nvme|hd) ]]
}

# A crash is dumped to the appliance's own file system; `raw` would write it onto a disk.
kdump() {
    local path=/etc/kdump.conf text
    is_there "$path" || return 0
    comment_out is_foreign_dump "$path" 'dumps onto a disk that it names by a name of the kernel'
    read_place text "$path"
    [[ $text =~ (^|$'\n')[[:blank:]]*path[[:blank:]]+[^[:blank:]] ]] ||
        ensure_edited "$path" "${text%$'\n'}${text:+$'\n'}path /var/crash"$'\n' "$path does not say where to: path /var/crash"
}

fstrim() { ensure_shipped /etc/systemd/system/fstrim.service.d/failback.conf 644; }
