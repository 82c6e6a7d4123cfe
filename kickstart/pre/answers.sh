# shellcheck shell=bash
# Writes down what was chosen, in words of the kickstart and for the scripts that run after the packages are installed.
# shellcheck disable=SC2154 # `system`, `retention` and others are set by choose.sh, `network_line` by network.sh.

# Where the packages come from: the medium, if it has them, or CentOS's mirrors; and our own from the medium or the seed.
write_sources() {
    local mirrors='https://mirrors.centos.org/metalink?arch=x86_64&protocol=https,http&repo' ours=/run/install/repo/failback seed
    if [[ -d /run/install/repo/BaseOS/repodata ]]; then
        printf 'url --url=file:///run/install/repo/BaseOS\n'
        printf 'repo --name=AppStream --baseurl=file:///run/install/repo/AppStream\n'
    else
        printf 'url --metalink=%s=centos-baseos-%s-stream\n' "$mirrors" "$release"
        printf 'repo --name=AppStream --metalink=%s=centos-appstream-%s-stream\n' "$mirrors" "$release"
    fi
    if [[ ! -d $ours/repodata ]]; then
        seed=/run/failback-seed
        mkdir -p "$seed"
        mount -r -t iso9660 /dev/disk/by-label/OEMDRV "$seed" ||
            refuse 'the packages of failback are neither on the installation medium nor on a seed ISO (OEMDRV); attach the seed ISO.'
        ours=$seed/failback
    fi
    printf 'repo --name=failback --baseurl=file://%s\n' "$ours"
}

# What is put on the system disk: 20 GiB at least, and the root file system takes what is left.
write_layout() {
    local on="--ondisk=$system"
    printf '%s\n' \
        "ignoredisk --only-use=$system" \
        zerombr \
        "clearpart --all --initlabel --disklabel=gpt --drives=$system" \
        "bootloader --location=mbr --boot-drive=$system --append=\"console=tty0 console=ttyS0,115200\"" \
        reqpart \
        "part /boot --fstype=ext4 --label=boot --size=1024 $on" \
        "part / --fstype=ext4 --label=root --size=10240 --grow $on" \
        "part /var/crash --fstype=ext4 --label=crash --size=4096 $on" \
        "part /home --fstype=ext4 --label=home --size=2048 $on" \
        "part swap --fstype=swap --label=swap --size=2048 $on"
}

# Writes /tmp/failback/answers.ks, which the kickstart includes, and what is for the scripts after the installation.
write_answers() {
    local end='reboot --eject'
    case ${argument[failback.then]:-reboot} in
    reboot) ;;
    poweroff) end=poweroff ;;
    *) refuse "failback.then=${argument[failback.then]} is not understood; write failback.then=reboot or failback.then=poweroff." ;;
    esac
    write_sources >/tmp/failback/sources.ks
    {
        cat /tmp/failback/sources.ks
        write_layout
        printf '%s\n' "$network_line" "$end"
    } >/tmp/failback/answers.ks
    {
        printf '# The disks of this appliance itself: role and WWID. All others belong to the machines that it serves.\n'
        printf 'system %s\n' "${wwid_of[$system]}"
        [[ -z $retention ]] || printf 'retention %s\n' "${wwid_of[$retention]}"
    } >/tmp/failback/own-disks
    printf '%s\n' "$retention_kind" >/tmp/failback/retention
}
