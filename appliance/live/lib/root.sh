# shellcheck shell=bash
# What the live ISO runs from: a root file system in memory. `binary` is the program, `with_ssh` says whether there is an SSH server.
# shellcheck disable=SC2154

# Makes it in directory $1: our files, busybox, the program, the few other programs, and the modules.
make_root() {
    local root=$1 applet
    mkdir -- "$root"
    cp -r -- appliance/live/root/. "$root/"
    cp -- appliance/package/files/network "$root/usr/libexec/failback/network"
    cp -- appliance/custom/files/usr/libexec/failback/wwid.sh "$root/usr/libexec/failback/wwid.sh"
    cp -- appliance/lib/keys-and-names.sh "$root/usr/libexec/failback/keys-and-names.sh"
    mkdir -p -- "$root"/{bin,sbin,dev,proc,sys,tmp,run,root/.ssh,mnt,var/lib/failback,var/log,usr/bin,usr/sbin,lib64,etc/failback}
    ln -s ../run "$root/var/run"
    carry "$root" "$(type -P busybox)" bin/busybox
    while read -r applet; do
        mkdir -p -- "$root/$(dirname -- "$applet")"
        [[ -e $root/$applet ]] || ln -s /bin/busybox "$root/$applet"
    done < <(busybox --list-full)
    for applet in init mdev modprobe uevent udhcpc ip sh; do
        [[ -e $root/bin/$applet || -e $root/sbin/$applet || -e $root/usr/bin/$applet ]] ||
            die "this busybox has no $applet: install busybox-static of Debian 12 or newer"
    done
    carry "$root" "$binary" usr/bin/failback
    # Those of busybox, where it has them, know less.
    rm -f -- "$root"/{bin,sbin,usr/bin,usr/sbin}/{blkid,mke2fs}
    carry "$root" "$(type -P blkid)" usr/sbin/blkid
    carry "$root" "$(type -P flock)" usr/bin/flock
    carry "$root" "$(type -P mke2fs)" usr/sbin/mke2fs
    [[ $with_ssh == no ]] || carry_ssh "$root"
    install_modules "$root"
    printf 'failback live %s\n' "$(version)" >"$root/etc/issue"
    chmod -R u=rwX,go=rX -- "$root"
    chmod 700 -- "$root/root" "$root/root/.ssh"
}

# Copies a program into a root, under this name, with the libraries that it is linked with.
carry() {
    local root=$1 from=$2 name=$3 library
    carry_file "$root" "$from" "$name"
    # ldd fails for a program that is linked with none.
    while read -r library; do
        [[ -e $root$library ]] || carry_file "$root" "$library" "${library#/}"
    done < <(ldd "$from" 2>/dev/null | grep -o '/[^ ]*' || true)
}

carry_file() {
    mkdir -p -- "$1/$(dirname -- "$3")"
    # What a library lacks without its debug information is of use to nobody here.
    strip --strip-debug -o "$1/$3" "$2" 2>/dev/null || cp -L -- "$2" "$1/$3"
    chmod 755 -- "$1/$3"
}

# An SSH server; scp and sftp need the other program.
carry_ssh() {
    local sftp found=''
    have dropbear || die "dropbear is missing: install dropbear-bin, or build with --no-ssh"
    carry "$1" "$(type -P dropbear)" usr/sbin/dropbear
    carry "$1" "$(type -P dropbearkey)" usr/bin/dropbearkey
    for sftp in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server; do
        [[ ! -x $sftp ]] || found=$sftp
    done
    [[ -n $found ]] || die "sftp-server is missing: install openssh-sftp-server, or build with --no-ssh"
    # Where dropbear looks for it.
    carry "$1" "$found" usr/lib/sftp-server
}

# Packs root $1 into the archive $2. Times, owners and order are those of no machine.
make_initrd() {
    local compress=(zstd -12 -q -T1)
    kernel_has CONFIG_RD_ZSTD=y || compress=(gzip -9 -n)
    clamp_times "$1"
    (cd -- "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible --quiet) | "${compress[@]}" >"$2"
}
