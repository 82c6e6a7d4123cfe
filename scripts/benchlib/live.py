"""How long the live ISO takes from the kernel's begin to a master target, and what it needs for that."""

import os
import re
import shutil
import subprocess
import time

from benchlib import machine, report

# What is wanted of it, under emulation on a machine that has nothing else to do.
SECONDS, MEMORY_MIB, SIZE_MIB = 12, 256, 64
PATIENCE = 300  # seconds
OVMF = "/usr/share/OVMF/OVMF_%s_4M.fd"
READY = re.compile(r"ready after ([0-9.]+) s, with 4 disks and (\d+) MiB of memory in use")


def missing():
    """What is not there of what it takes to build and boot it."""
    programs = ["qemu-system-x86_64", "xorriso", "grub-mkimage", "mcopy", "cpio", "busybox", "dropbear"]
    files = [OVMF % "CODE", OVMF % "VARS"]
    return [it for it in programs if not shutil.which(it)] + [it for it in files if not os.path.exists(it)]


def measure(bench, work):
    """Rows for the ISO with the program that is measured."""
    iso = os.path.join(work, "live.iso")
    machine.run(["appliance/live/build", "-o", iso, "--binary", bench.program, "--arguments", "no_timer_check"], limit=900)
    found = [held("live ISO, size", "", os.path.getsize(iso) / 2**20, SIZE_MIB, "MiB")]
    variables = shutil.copy(OVMF % "VARS", work)
    uefi = ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF % 'CODE'}"]
    uefi += ["-drive", f"if=pflash,format=raw,file={variables}"]
    for where, firmware in (("BIOS", []), ("UEFI", uefi)):
        ready = [boot(iso, firmware, work) for _ in range(bench.reps)]
        found.append(held("live ISO, uptime when ready", where, [seconds for seconds, _ in ready], SECONDS, "s"))
        found.append(held("live ISO, memory when ready", where, [mib for _, mib in ready], MEMORY_MIB, "MiB"))
    os.unlink(iso)
    return found


def held(what, where, ours, most, unit):
    return report.held(what, where, ours, most, unit, "target", at_most=1)


def boot(iso, firmware, work):
    """Boots it with a network card and four disks, and returns its uptime and its memory in use when it was ready."""
    console = os.path.join(work, "console")
    command = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "512", "-nodefaults"]
    command += ["-display", "none", "-no-reboot", "-serial", f"file:{console}", *firmware, "-cdrom", iso]
    command += ["-netdev", "user,id=net,restrict=on", "-device", "vmxnet3,netdev=net", "-device", "pvscsi,id=pvscsi"]
    for number in range(4):
        disk = os.path.join(work, f"disk{number}.img")
        with open(disk, "wb") as file:
            file.truncate(64 << 20)
        serial = f"6000c2999176dd776e01234567{number:06x}"
        command += ["-drive", f"if=none,id=d{number},format=raw,file={disk}"]
        command += ["-device", f"scsi-hd,bus=pvscsi.0,scsi-id={number},drive=d{number},vendor=VMware,serial={serial}"]
    with open(console, "w"):
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and child.poll() is None:
            time.sleep(0.2)
            with open(console, errors="replace") as file:
                ready = READY.search(file.read())
            if ready:
                return float(ready[1]), int(ready[2])
        with open(console, errors="replace") as file:
            last = file.read().strip().rpartition("\n")[2]
        raise machine.Failed(f"the live ISO does not come up; its console ends with {last!r}")
    finally:
        child.kill()
        child.wait()
        os.unlink(console)
