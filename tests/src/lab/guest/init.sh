#!/bin/busybox sh
# shellcheck shell=dash
# Prepares the guest, runs the test's script and ends. What the script reports goes over a serial line of its own, which the
# kernel's messages do not share.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
stty -F /dev/ttyS1 raw -echo

# Ends the machine at once: with -no-reboot, QEMU ends with it.
end() {
    sync
    reboot -f
}

die() {
    echo "guest: $*"
    end
}

# shellcheck source=tests/src/lab/guest/report.sh
. /report

# shown NAME COMMAND...: the same for a command to be watched: what it says on standard error is seen on the console meanwhile.
shown() {
    name=$1
    shift
    code=0
    "$@" >/tmp/.out </dev/null || code=$?
    echo "RESULT $name $code $(base64 -w 0 /tmp/.out)- -" >/dev/ttyS1
}

# await WHAT COMMAND...: repeats a command until it succeeds, for at most half a minute.
await() {
    what=$1
    shift
    for _ in $(seq 150); do
        if "$@"; then return; fi
        sleep 0.2
    done
    die "waited in vain for $what"
}

# disk TARGET: prints the name of the SCSI disk at this target, once it is there. Names differ from one start to the next.
disk() {
    await "the disk at target $1" sh -c "ls -d /sys/bus/scsi/devices/*:0:$1:0/block/* >/dev/null 2>&1"
    basename /sys/bus/scsi/devices/*:0:"$1":0/block/* | sed 's,^,/dev/,'
}

while read -r module; do
    insmod "/modules/$module" || die "module $module cannot be loaded"
done </modules/order

# shellcheck source=/dev/null
. /script
echo END >/dev/ttyS1
end
