# shellcheck shell=bash
# The boot menus of a CentOS ISO, and the EFI system partition that has a copy of them. Facts: lorax, share/templates.d/99-generic.
#
# el9: isolinux for BIOS, and /images/efiboot.img for UEFI, both in the file system; an isohybrid record makes the latter a partition.
# el10: GRUB for both; the EFI system partition is appended after the file system, as partition 2 of a GPT.
# shellcheck disable=SC2154 # `work` is set by use_output.
# shellcheck disable=SC2034 # `said_by_xorriso` and `esp_is_partition` are for the caller.

# Menus that are edited where they are there.
readonly menus=(isolinux/isolinux.cfg boot/grub2/grub.cfg boot/grub/grub.cfg EFI/BOOT/grub.cfg EFI/BOOT/BOOT.conf)

# Leaves the paths of all files of ISO $1 in $work/files; if it cannot be read, `said_by_xorriso` says why.
list_iso() {
    # A path stands there 'in apostrophes'.
    if xorriso -indev "$1" -find / 2>"$work/told" >"$work/quoted"; then
        sed "s/^'//; s/'\$//" "$work/quoted" >"$work/files"
        return
    fi
    said_by_xorriso=$(sed -n 's/^.*\(FAILURE\|FATAL\|SORRY\) *: *//p' "$work/told" | head -n 1)
    return 1
}

on_iso() { grep -qxF -- "$1" "$work/files"; }

# Writes file $2 of ISO $1 to $3.
take_from_iso() {
    mkdir -p -- "$(dirname -- "$3")"
    osirrox -indev "$1" -extract "$2" "$3" >"$work/told" 2>&1 || die "$2 cannot be read from $1: $(tail -n 1 "$work/told")"
    chmod u+w -- "$3"
}

# Adds arguments $2 to every entry of menu $1 that starts the installer. One that starts a rescue system stays: the kickstart would
# have no disk to choose there.
edit_menu() {
    local line edited=0
    while IFS= read -r line || [[ -n $line ]]; do
        if [[ $line =~ ^[[:space:]]*(append|linux|linuxefi|linux16)[[:space:]] && ! $line =~ [[:space:]]inst\.rescue([[:space:]]|$) ]]; then
            line="${line%"${line##*[![:space:]]}"} $2"
            edited=$((edited + 1))
        fi
        printf '%s\n' "$line"
    done <"$1" >"$1.new"
    ((edited > 0)) || die "the boot menu ${1#"$work"/edited/} has no entry that starts the installer; is the ISO a new kind?"
    mv -- "$1.new" "$1"
}

# Edits all menus of ISO $1 into $work/edited.
edit_menus() {
    local path found=0
    for path in /EFI/BOOT/grub.cfg /images/pxeboot/vmlinuz /images/pxeboot/initrd.img; do
        on_iso "$path" || die "$1 has no $path, so it is no installation ISO; name the boot or DVD ISO of CentOS Stream"
    done
    for path in "${menus[@]}"; do
        on_iso "/$path" || continue
        take_from_iso "$1" "/$path" "$work/edited/$path"
        ! grep -qE '[[:space:]]inst\.ks=' "$work/edited/$path" ||
            die "$1 starts a kickstart of its own already; take the ISO as CentOS publishes it"
        edit_menu "$work/edited/$path" "$2"
        [[ $path == EFI/* ]] || found=$((found + 1))
    done
    ((found > 0)) || die "$1 has no boot menu for BIOS that is known; is the ISO a new kind?"
}

# Makes the EFI system partition of ISO $1 anew with the edited menus: as $work/edited/images/efiboot.img where the ISO has it as a
# file, and as $work/esp.img, with `esp_is_partition` yes, where it is appended. Booted from a stick, UEFI reads the menu there.
make_esp() {
    local old content=$work/esp path size least label serial records
    mkdir "$work/boot" "$content"
    xorriso -indev "$1" -osirrox on -extract_boot_images "$work/boot" >"$work/told" 2>&1 || true
    old=$(find "$work/boot" -name 'eltorito_img*_uefi.img' | head -n 1)
    [[ -n $old ]] || die "$1 has no boot record for UEFI; is the ISO a new kind?"
    mcopy -s -m -n -i "$old" '::*' "$content/" >"$work/told" 2>&1 ||
        die "the EFI system partition of $1 cannot be read: $(tail -n 1 "$work/told")"
    for path in "${menus[@]}"; do
        [[ ! -f $content/$path ]] || cp -- "$work/edited/$path" "$content/$path"
    done
    [[ -f $content/EFI/BOOT/grub.cfg ]] || die "the EFI system partition of $1 has no boot menu; is the ISO a new kind?"
    clamp_times "$content"
    label=$(mlabel -s -i "$old" :: | sed -n 's/^ *Volume label is \([^ ]*\).*/\1/p')
    serial=$(minfo -i "$old" :: | sed -n 's/^serial number: *//p')
    # Clusters and directories take more than the files have, and a menu that has grown may need one more.
    size=$(wc -c <"$old")
    least=$(($(du -sk -- "$content" | cut -f1) * 1024 + 128 * 1024))
    ((size >= least)) || size=$least
    truncate -s "$size" "$work/esp.img"
    mformat -i "$work/esp.img" -v "${label:-ANACONDA}" -N "${serial:-0}" :: || die "no EFI system partition can be made"
    # In one order everywhere.
    find "$content" -mindepth 1 -maxdepth 1 | LC_ALL=C sort | while IFS= read -r path; do
        mcopy -s -m -i "$work/esp.img" "$path" :: || die "the EFI system partition cannot be filled"
    done
    records=$(xorriso -indev "$1" -report_el_torito plain 2>/dev/null)
    if grep -qE '^El Torito img path *: *[0-9]+ */images/efiboot\.img$' <<<"$records"; then
        esp_is_partition=no
        mkdir -p "$work/edited/images"
        mv -- "$work/esp.img" "$work/edited/images/efiboot.img"
    else
        esp_is_partition=yes
    fi
}
