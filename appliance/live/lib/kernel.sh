# shellcheck shell=bash
# The kernel of the live ISO and its modules, from packages. Sets kernel_image, kernel_config, kernel_modules and kernel_version.
# What is asked for is in kernel_rpms and kernel_debs.
# shellcheck disable=SC2154

# Unpacks the kernel that was asked for into directory $1.
unpack_kernel() {
    local to=$1 file
    mkdir -- "$to"
    if ((${#kernel_rpms[@]})); then
        require rpm2cpio
        for file in "${kernel_rpms[@]}"; do unpack_rpm "$file" "$to"; done
    elif ((${#kernel_debs[@]})); then
        require dpkg-deb
        for file in "${kernel_debs[@]}"; do
            dpkg-deb --fsys-tarfile "$file" | tar -x -C "$to" || die "$file is not a Debian package that can be unpacked"
        done
    else
        scripts/lib/guest-kernel "${CARGO_TARGET_DIR:-target}/guest/kernel"
        to=${CARGO_TARGET_DIR:-target}/guest/kernel
    fi
    find_kernel "$to"
}

unpack_rpm() {
    # Refused by cpio are names that lead out of the directory.
    rpm2cpio "$1" 2>/dev/null | (cd -- "$2" && cpio -idm --quiet --no-absolute-filenames 2>/dev/null) ||
        die "$1 is not an RPM that can be unpacked: name the packages of a kernel"
}

# Finds what belongs together: Debian has the kernel in /boot, CentOS has it beside the modules.
find_kernel() {
    local root=$1 found place
    # CentOS names some of its files by /lib, and some by the /usr/lib that it is a link to.
    mkdir -p -- "$root/lib/modules"
    if [[ -d $root/usr/lib/modules && ! $root/usr/lib/modules -ef $root/lib/modules ]]; then
        cp -alf -- "$root/usr/lib/modules/." "$root/lib/modules/"
    fi
    mapfile -t found < <(compgen -G "$root/lib/modules/*")
    ((${#found[@]} == 1)) || die "the packages hold the modules of ${#found[@]} kernels, and one is needed"
    kernel_version=${found[0]##*/}
    kernel_modules=$root/lib/modules/$kernel_version
    kernel_image='' kernel_config=''
    for place in "$kernel_modules/vmlinuz" "$1/boot/vmlinuz-$kernel_version"; do
        [[ ! -f $place ]] || kernel_image=$place
    done
    for place in "$kernel_modules/config" "$1/boot/config-$kernel_version"; do
        [[ ! -f $place ]] || kernel_config=$place
    done
    [[ -n $kernel_image && -n $kernel_config ]] ||
        die "the packages hold no kernel $kernel_version with its configuration: name kernel-core too"
}

# Prints the wanted modules by file name relative to $1, a tree of all modules that depmod has been through, with all that
# they need. A line `name` must be there, one `? name` may be missing or built in.
module_closure() {
    local tree=$1 line name told
    while read -r line; do
        [[ -n $line && $line != '#'* ]] || continue
        name=${line#'? '}
        if told=$(modprobe -d "$tree" -S "$kernel_version" --show-depends "$name" 2>/dev/null); then
            sed -n "s,^insmod .*/lib/modules/$kernel_version/\([^ ]*\).*,\1,p" <<<"$told"
        elif [[ $line != '? '* ]]; then
            die "the kernel $kernel_version has no module $name: name the package that holds it too (kernel-modules-core, kernel-modules)"
        fi
    done <appliance/live/modules | sort -u
}

# Copies the modules into the root $1, unpacked: the archive as a whole is compressed.
install_modules() {
    local all=$1.modules name file
    mkdir -p -- "$all/lib/modules"
    # Links cost nothing; depmod writes new files and follows the links that there are.
    cp -al -- "$kernel_modules" "$all/lib/modules/" 2>/dev/null || cp -a -- "$kernel_modules" "$all/lib/modules/"
    depmod -b "$all" "$kernel_version"
    local to=$1/lib/modules/$kernel_version
    # Its own exit ends only the process substitution, so that a missing module would go unnoticed there.
    module_closure "$all" >"$1.closure"
    while read -r name; do
        file=$all/lib/modules/$kernel_version/$name
        mkdir -p -- "$to/$(dirname -- "$name")"
        case $name in
        *.ko) cp -- "$file" "$to/$name" ;;
        *.ko.xz) xz -dc -- "$file" >"$to/${name%.xz}" ;;
        *.ko.zst) zstd -dqc -- "$file" >"$to/${name%.zst}" ;;
        *.ko.gz) gzip -dc -- "$file" >"$to/${name%.gz}" ;;
        *) die "$name is compressed in a way that is not known here" ;;
        esac
    done <"$1.closure"
    find "$kernel_modules" -maxdepth 1 -name 'modules.[bo]*' -not -name '*.bin' -exec cp -- {} "$to/" \;
    depmod -b "$1" "$kernel_version"
    # What busybox reads is the text; the rest is of no use there.
    rm -f -- "$to"/modules.*.bin
    rm -rf -- "$all" "$1.closure"
}

# Whether the kernel is configured so: `CONFIG_RD_ZSTD=y`.
kernel_has() { grep -qx -- "$1" "$kernel_config"; }
