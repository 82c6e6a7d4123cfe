# shellcheck shell=bash
# Takes what was chosen before the installation into the new system.
set -euo pipefail

to=/mnt/sysroot
[[ -d $to/etc ]] || to=/mnt/sysimage
mkdir -p "$to/var/tmp/failback-install"
cp /tmp/failback/own-disks /tmp/failback/authorized_keys /tmp/failback/retention "$to/var/tmp/failback-install/"
# What was asked and chosen, for those who look at the system later; no installation fails for want of it.
mkdir -p "$to/var/log/failback-install"
cp /tmp/failback-pre.log /tmp/failback/answers.ks "$to/var/log/failback-install/" || true
