# shellcheck shell=dash
# Goes on from the initramfs to the Debian on the system disk, as an appliance that is installed: with own-disks and a mount of the
# retention drive, and with our changes where $changes says so. The rest of it is an administrator's.

# shellcheck disable=SC2154 # changes is set by what comes before
system=$(disk 0)
await 'the root file system' test -b "${system}1"
mount -t ext4 "${system}1" /mnt || die 'the root file system cannot be mounted'
mkdir -p /mnt/usr/lib/failback-test /mnt/etc/failback /mnt/usr/libexec/failback /mnt/usr/share /mnt/var/lib/failback/retention \
    /mnt/boot/loader/entries
cp /report /payload/guest.sh /mnt/usr/lib/failback-test
cp /payload/apply-custom-changes /mnt/usr/libexec/failback/
mkdir -p /mnt/usr/share/failback
cp -r /payload/custom /mnt/usr/share/failback/custom
cat >/mnt/etc/failback/own-disks <<END
# of this machine
system naa.5000c29000000001
retention virtio-retention-1
END
echo 'LABEL=retention /var/lib/failback/retention ext4 nofail,x-systemd.device-timeout=300s 0 0' >>/mnt/etc/fstab
echo 'options root=LABEL=guest-root ro quiet' >/mnt/boot/loader/entries/guest.conf
cat >/mnt/etc/multipath.conf <<END
defaults {
    find_multipaths no
}
blacklist {
    wwid 35000c29000000001
}
END
cat >/mnt/etc/systemd/system/guest.service <<END
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /usr/lib/failback-test/guest.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
END
# On a busy machine all takes long.
mkdir -p /mnt/etc/systemd/system.conf.d
printf '[Manager]\nDefaultDeviceTimeoutSec=300s\nDefaultTimeoutStartSec=300s\n' >/mnt/etc/systemd/system.conf.d/guest.conf
mkdir -p /mnt/etc/systemd/system/default.target.wants
ln -s ../guest.service /mnt/etc/systemd/system/default.target.wants/guest.service
# As udev will have it; a shell in a chroot needs it before that.
ln -s /proc/self/fd /dev/fd
for directory in proc sys dev; do mount -o bind "/$directory" "/mnt/$directory"; done
if [ "$changes" = yes ]; then
    result applied chroot /mnt /usr/libexec/failback/apply-custom-changes
fi
exec switch_root /mnt /sbin/init
