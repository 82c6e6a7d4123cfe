# shellcheck shell=bash
# What the scripts need, and what it is called where.

# Columns: the command that must be found, or a file by its whole path; the goal that first needs it; its package for apt (Debian 12); its package
# for dnf (CentOS Stream 9 and 10); `need`, or `want` for what the goal can do without.
# `epel:NAME` is a package that only EPEL has; `cargo:NAME` is built from crates.io; `-` is not to be had.
packages_table() {
    cat <<'END'
cc          build  gcc         gcc               need
b3sum       demo   b3sum       cargo:b3sum       need
cmp         demo   diffutils   diffutils         need
debugfs     demo   e2fsprogs   e2fsprogs         need
jq          demo   jq          jq                need
mke2fs      demo   e2fsprogs   e2fsprogs         need
rpmbuild    appliance rpm      rpm-build         need
readelf     appliance binutils binutils          need
dpkg-deb    appliance dpkg     epel:dpkg         want
busybox     appliance busybox-static -           want
checkisomd5 appliance isomd5sum isomd5sum        want
cpio        appliance cpio     cpio              need
createrepo_c appliance createrepo-c createrepo_c want
dropbear    appliance dropbear-bin epel:dropbear want
grub-mkimage appliance grub-common -             want
mcopy       appliance mtools   mtools            need
xorriso     appliance xorriso  xorriso           need
xz          appliance xz-utils xz                need
zstd        appliance zstd     zstd              need
/usr/lib/grub/i386-pc/boot_hybrid.img appliance grub-pc-bin - want
/usr/lib/grub/x86_64-efi/moddep.lst appliance grub-efi-amd64-bin - want
/usr/lib/openssh/sftp-server appliance openssh-sftp-server - want
faketime    test   faketime    epel:libfaketime  want
git         test   git         git-core          need
ip          test   iproute2    iproute           need
lintian     test   lintian     -                 want
man         test   man-db      man-db            want
mandoc      test   mandoc      -                 want
rpmlint     test   rpmlint     epel:rpmlint      want
qemu-img    test   qemu-utils  qemu-img          need
nbdinfo     test   libnbd-bin  libnbd            need
nbdfuse     test   libnbd-bin  nbdfuse           need
losetup     test   mount       util-linux        need
linux.uml   test   user-mode-linux   -             want
mkreiserfs  test   reiserfsprogs     -             want
mkfs.xfs    test   xfsprogs    xfsprogs          need
partclone.extfs test partclone epel:partclone    need
modinfo     test   kmod        kmod              need
openssl     test   openssl     openssl           need
isohybrid   test   syslinux-utils syslinux       want
pip3        test   python3-pip python3-pip       want
/usr/lib/ISOLINUX/isolinux.bin test isolinux -   want
/usr/lib/syslinux/modules/bios/vesamenu.c32 test syslinux-common - want
/usr/share/OVMF/OVMF_CODE_4M.fd test ovmf  -     want
qemu-system-x86_64  test  qemu-system-x86  -     want
qemu-storage-daemon test qemu-system-common -    want
lvm         test   lvm2        lvm2              need
mmdebstrap  test   mmdebstrap  -                 want
sfdisk      test   fdisk       util-linux        need
sgdisk      test   gdisk       gdisk             need
cryptsetup  test   cryptsetup-bin cryptsetup     want
genisoimage test   genisoimage epel:genisoimage  want
mkfs.btrfs  test   btrfs-progs -                 want
mkfs.exfat  test   exfatprogs  epel:exfatprogs   want
mkfs.f2fs   test   f2fs-tools  epel:f2fs-tools   want
mkfs.jfs    test   jfsutils    -                 want
mkfs.nilfs2 test   nilfs-tools -                 want
mkfs.vfat   test   dosfstools  dosfstools        want
mkntfs      test   ntfs-3g     epel:ntfsprogs    want
mksquashfs  test   squashfs-tools squashfs-tools want
shellcheck  test   shellcheck  epel:ShellCheck   want
shfmt       test   shfmt       -                 want
strace      test   strace      strace            need
strip       test   binutils    binutils          need
fio         bench  fio         fio               need
tc          bench  iproute2    iproute-tc        want
python3     bench  python3     python3           need
casync      bench  casync      -                 want
rdiff       bench  rdiff       epel:librsync     want
rsync       bench  rsync       rsync             want
END
}

# Goals build on each other; prints those that goal $1 consists of.
goals_of() {
    case $1 in
    build) printf 'build\n' ;;
    demo) printf 'build demo\n' ;;
    appliance) printf 'build demo appliance\n' ;;
    test) printf 'build demo appliance test\n' ;;
    bench) printf 'build demo bench\n' ;;
    *) return 1 ;;
    esac
}

# Whether a command of the table, or a file, is there.
is_present() { if [[ $1 == /* ]]; then [[ -e $1 ]]; else have "$1"; fi; }

# Prints "command package kind" for everything that goal $1 asks for and that is not there; $2 is apt or dnf.
missing_packages() {
    local goals command goal apt dnf kind
    goals=" $(goals_of "$1") "
    packages_table | while read -r command goal apt dnf kind; do
        [[ $goals == *" $goal "* ]] || continue
        is_present "$command" && continue
        if [[ $2 == apt ]]; then
            printf '%s %s %s\n' "$command" "$apt" "$kind"
        else
            printf '%s %s %s\n' "$command" "$dnf" "$kind"
        fi
    done
}
