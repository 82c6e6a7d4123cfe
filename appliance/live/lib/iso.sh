# shellcheck shell=bash
# The ISO around kernel_image and root: GRUB for BIOS and UEFI, as a CD and as a USB stick.
# shellcheck disable=SC2154

# The volume's label, and the first line of the file whose place in the ISO is found by it.
iso_label=FAILBACK_LIVE
arguments_mark='# Boot arguments of this ISO, padded to 4096 bytes'
arguments_size=4096

# What GRUB is to have built in: nothing is loaded later.
grub_modules=(normal iso9660 fat part_gpt part_msdos search search_fs_file linux echo test true configfile terminal serial
    ls cat halt reboot minicmd all_video)

# Prints boot arguments $1 as a file for GRUB. Words are separated as the kernel does it: by spaces outside of double quotes.
boot_arguments() {
    local text word joined quoted=() words=() refused LC_ALL=C
    [[ $1 != *[\'\\$\`]* && $1 != *[[:cntrl:]]* ]] ||
        die "boot arguments hold no single quotes, backslashes, dollars, backquotes or line ends: leave them out"
    mapfile -t words < <(xargs -n 1 printf '%s\n' <<<"$1" 2>/dev/null || printf '\001\n')
    for word in "${words[@]}"; do
        [[ $word != $'\001' ]] || die "a double quote in the boot arguments has no end: $1"
        [[ -z $word ]] || quoted+=("'$word'")
    done
    mapfile -t refused < <(printf '%s\n' "${words[@]}" | refused_arguments | cut -f2-)
    ((${#refused[@]} == 0)) || die "${refused[0]}"
    text="$arguments_mark"$'\nfunction linux_with_arguments {\n    linux $kernel'"${quoted[*]:+ ${quoted[*]}}"$'\n}\n'
    # The kernel takes 2047 bytes, some of which are in grub.cfg, and cuts off what follows.
    joined=${quoted[*]}
    ((${#joined} < 1900)) || die "the boot arguments are too long: the kernel takes 1900 bytes at most, so leave some out, such as keys that failback.sshkey=disk would bring"
    printf '%s%*s\n' "$text" $((arguments_size - ${#text} - 1)) ''
}

# File $1 is a live ISO of ours, from its first byte to its last. Leaves in `arguments_at` where its boot arguments stand.
check_live_iso() {
    local size least found
    [[ -f $1 && -r $1 ]] || die "$1 is no file that can be read: name a live ISO with --from"
    has_volume_descriptor "$1" || die "$1 is no live ISO of failback, nor another ISO: name one that appliance/build live has made"
    [[ $(volume_label "$1") == "$iso_label" ]] ||
        die "$1 is no live ISO of failback: its label is \"$(volume_label "$1")\", not $iso_label; name one that appliance/build live has made"
    size=$(stat -L -c %s -- "$1") least=$(least_bytes "$1")
    ((size >= least)) || die "$1 is cut off: it has $size bytes of $least; copy it again, or build a new one"
    mapfile -t found < <(LC_ALL=C grep -abo -F -- "$arguments_mark" "$1" | cut -d: -f1)
    arguments_at=${found[0]:-}
    # A file begins in a sector.
    if ((${#found[@]} != 1 || arguments_at % 2048 != 0 || arguments_at + arguments_size > least)) ||
        ! is_arguments_file "$(bytes_at "$1" "$arguments_at" $arguments_size | tr '\0' '?' && printf x)"; then
        die "$1 is damaged, or no live ISO of failback: it does not hold boot arguments once and whole; build a new one"
    fi
}

# Whether $1, with an x after it that keeps its last line end, is a whole file as boot_arguments prints it.
is_arguments_file() {
    [[ $1 == "$arguments_mark"$'\nfunction linux_with_arguments {\n    linux $kernel'?(\ *)$'\n}\n'*( )$'\nx' ]]
}

# Copies the live ISO $1 to $3 with the file $2 in place of its boot arguments; everything else stays as it is.
with_other_arguments() {
    check_live_iso "$1"
    [[ $(stat -c %s -- "$2") -eq $arguments_size ]] || die "the boot arguments do not have $arguments_size bytes"
    cp -- "$1" "$3"
    dd if="$2" of="$3" bs=4096 seek="$arguments_at" oflag=seek_bytes conv=notrunc status=none
}

# Makes GRUB for platform $1 as file $2, which finds its ISO by the file $3.
make_grub() {
    local platform=$1 to=$2 mkimage directory modules=("${grub_modules[@]}")
    mkimage=$(type -P grub-mkimage || type -P grub2-mkimage) || die "grub-mkimage is missing: install grub-common"
    directory=/usr/lib/grub/${platform%-eltorito}
    [[ -d $directory ]] || die "$directory is missing: install grub-pc-bin and grub-efi-amd64-bin"
    if [[ $platform == i386-pc-eltorito ]]; then modules+=(biosdisk); else modules+=(efi_gop efi_uga); fi
    # shellcheck disable=SC2016 # GRUB's variables
    printf 'search --no-floppy --set=root --file %s\nset prefix=($root)/boot/grub\n' "$3" >"$to.early"
    "$mkimage" -O "$platform" -d "$directory" -c "$to.early" -p /boot/grub -o "$to" "${modules[@]}"
    rm -- "$to.early"
}

# Makes the EFI system partition $1 with $2 as its only program.
make_esp() {
    local kib=$((($(stat -c %s -- "$2") / 1024 + 511) / 512 * 512 + 512))
    truncate -s "${kib}K" -- "$1"
    mformat -i "$1" -v FAILBACKEFI -N 0fa11bac ::
    mmd -i "$1" ::/EFI ::/EFI/BOOT
    mcopy -m -i "$1" "$2" ::/EFI/BOOT/BOOTX64.EFI
}

# Makes the ISO $2 of what is in directory $1: initrd, arguments.cfg, and the kernel.
make_iso() {
    local work=$1 out=$2 tree=$1/iso id date
    mkdir -p -- "$tree"/boot/grub "$tree"/EFI/BOOT
    cp -- "$kernel_image" "$tree/boot/vmlinuz"
    mv -- "$work/initrd" "$tree/boot/initrd"
    cp -- "$work/arguments.cfg" appliance/live/grub.cfg "$tree/boot/grub/"
    # Of two such ISOs, each finds itself.
    id=$(cat -- "$tree/boot/vmlinuz" "$tree/boot/initrd" | sha256sum | cut -c1-16)
    : >"$tree/boot/live-$id"
    make_grub i386-pc-eltorito "$tree/boot/grub/eltorito.img" "/boot/live-$id"
    make_grub x86_64-efi "$tree/EFI/BOOT/BOOTX64.EFI" "/boot/live-$id"
    clamp_times "$tree"
    make_esp "$work/esp" "$tree/EFI/BOOT/BOOTX64.EFI"
    find "$tree" -exec chmod u=rwX,go=rX {} +
    date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S00)
    xorriso -as mkisofs -quiet -o "$out" -V "$iso_label" -r -J -iso-level 3 --modification-date="$date" \
        --sort-weight 1 boot \
        -b boot/grub/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info \
        --grub2-mbr /usr/lib/grub/i386-pc/boot_hybrid.img \
        -appended_part_as_gpt -append_partition 2 C12A7328-F81F-11D2-BA4B-00A0C93EC93B "$work/esp" \
        -eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot "$tree" 2>"$work/told" || die "xorriso failed: $(tail -n 3 "$work/told")"
}
