# shellcheck shell=bash
# Chooses the disks and the network, or refuses. Nothing is written to a disk here.
# shellcheck disable=SC2154 # `release` is set at the head of the script, the others by the pieces before.

mkdir -p /tmp/failback
running=$(sed -n 's/^VERSION_ID="\{0,1\}\([0-9]*\).*/\1/p' /etc/os-release)
[[ $running == "$release" ]] ||
    refuse "this kickstart is for CentOS Stream $release, and the installer is that of release ${running:-unknown}; use the one made for it."
read_arguments
# Disks that the kernel has found are to be seen here in full.
udevadm settle || true
list_disks
choose_system
choose_retention
read_keys
read_network
write_answers
protect_others
tell '' "failback: the system disk is $system (${wwid_of[$system]}); all of it is overwritten."
if [[ -n $retention ]]; then
    tell "failback: the retention disk is $retention (${wwid_of[$retention]})."
else
    tell 'failback: there is no retention disk; without one nothing can be undone. Attach one later, as the README says.'
fi
