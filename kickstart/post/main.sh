# shellcheck shell=bash
# Finishes the new system: its own disks, the keys, the retention drive, what the console shows, and the custom changes.

from=/var/tmp/failback-install
changes=/usr/libexec/failback/apply-custom-changes
drive=/var/lib/failback/retention

# Gives files and directories the labels of SELinux that the new system's policy has for them: the installer has no policy.
label() { setfiles -F /etc/selinux/targeted/contexts/files/file_contexts "$@"; }

# Who may log in: root, with a key.
set_keys() {
    mkdir -p /root/.ssh
    chmod 700 /root/.ssh
    cp "$from/authorized_keys" /root/.ssh/authorized_keys
    chmod 600 /root/.ssh/authorized_keys
    mkdir -p /etc/ssh/sshd_config.d
    printf '%s\n' '# root is the only account; it has no password.' 'PermitRootLogin prohibit-password' \
        'PasswordAuthentication no' 'KbdInteractiveAuthentication no' >/etc/ssh/sshd_config.d/40-failback.conf
}

# Makes a file system on the disk that was found empty before, and sets `retention` to its UUID and type. The disk is looked for by its
# WWID, and looked at, once more.
format_retention() {
    local wwid name content
    wwid=$(sed -n 's/^retention //p' /etc/failback/own-disks)
    list_disks
    name=$(disks_with "$wwid")
    [[ -n $name && $name != *$'\n'* ]] || refuse "the retention disk $wwid is not there any more, or there are two of it."
    content=$(not_at_rest "$name")
    [[ -z $content ]] || refuse "the retention disk $name $content."
    content=$(content_of "$name")
    [[ -z $content ]] || refuse "the retention disk $name is not empty any more, it has $content."
    # Refuses by itself where it finds a file system.
    mkfs.xfs -q -L FAILBACK_RET "$(device_of "$name")" || refuse "no file system could be made on the retention disk $name."
    retention="$(probe UUID "$(device_of "$name")") xfs"
    mount -t xfs "$(device_of "$name")" "$drive" || refuse "the retention disk $name cannot be mounted."
    label "$drive"
    umount "$drive"
}

# Mounts the retention drive at every start. A drive that is missing stops no start, and nothing can be written to its place then.
set_retention() {
    local retention uuid type
    retention=$(cat "$from/retention")
    [[ -n $retention ]] || return 0
    mkdir -p "$drive"
    # Before it cannot be changed any more.
    label "$drive"
    chattr +i "$drive"
    [[ $retention != format ]] || format_retention
    read -r uuid type <<<"$retention"
    [[ -n $uuid && -n $type ]] || refuse 'the UUID of the retention drive is not known.'
    printf 'UUID=%s %s %s nofail,nodev,nosuid,noexec,x-systemd.device-timeout=30s 0 2\n' "$uuid" "$drive" "$type" >>/etc/fstab
    printf '%s\n' '# Written by the installation. README.md of failback says what else can stand here.' \
        '[retention]' "directory = \"$drive\"" >/etc/failback/failback.toml
}

# The daemon of the appliance and its check at each start; its screens need nothing, since their unit takes the place of the logins there.
enable_units() {
    local unit
    for unit in failback-console@.service failback-check.service failback-serve.service; do
        [[ -e /usr/lib/systemd/system/$unit ]] || refuse "the package failback-appliance has no unit $unit."
    done
    systemctl enable failback-check.service failback-serve.service
    systemctl set-default multi-user.target
}

[[ -x $changes ]] || refuse 'the package failback-appliance is not installed; is it in the repository of this medium?'
[[ -e /usr/lib/sysctl.d/60-failback.conf ]] || refuse 'the package failback is not installed; is it in the repository of this medium?'
mkdir -p /etc/failback /tmp/failback
cp "$from/own-disks" /etc/failback/own-disks
set_keys
set_retention
enable_units
"$changes" || refuse 'apply-custom-changes failed, so disks of others would not be safe; its messages are above and in /var/log/failback-install.log.'
label /root/.ssh /etc/failback /etc/ssh/sshd_config.d /etc/fstab
rm -r "$from" /tmp/failback
tell 'failback: the appliance is complete.'
