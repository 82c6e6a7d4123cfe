# shellcheck shell=bash
# What the builders of ISOs share: our packages as a repository, what an ISO says about itself, and outputs that are whole or not there.
# Sourced from the top of the repository, after appliance/lib/common.sh.

# Leaves in `output` the path of the ISO, which the user names $1 or which is called $2, and in `work` a directory beside it for what
# becomes it. That is gone when the script ends.
use_output() {
    local directory
    if [[ -n $1 ]]; then
        output=$(user_path "$1")
        directory=$(dirname -- "$output")
    else
        directory=$(output_directory)
        output=$directory/$2
    fi
    [[ -d $directory ]] || die "there is no directory $directory for the output; make it, or name another file with -o"
    [[ ! -d $output ]] || die "the output $output is a directory; name a file with -o"
    check_output "$output"
    work=$(mktemp -d -- "$directory/.${output##*/}.XXXXXX") || die "nothing can be written in $directory; name another file with -o"
    trap 'rm -rf -- "$work"' EXIT
}

# Gives a finished file its name: before that, whatever had the name stays, and after it the content is durable.
publish() {
    # It may have come while the file was made.
    check_output "$2"
    sync -- "$1"
    mv -fT -- "$1" "$2"
    sync -- "$(dirname -- "$2")"
}

# Leaves in `packages` the directory of the packages: $1 as the user gave it, or what is built now.
use_packages() {
    if [[ -n $1 ]]; then
        packages=$(user_path "$1")
        [[ -d $packages ]] || die "there is no directory $packages with packages; name it with --rpms, or leave that out to build them"
    else
        packages=$work/packages
        appliance/package/build --only rpm -o "$packages" >/dev/null || die "the packages could not be built"
    fi
}

# Makes repository $1 of the packages in `packages`: failback and failback-appliance, one of each.
make_repository() {
    local name found
    mkdir -p -- "$1"
    for name in 'failback-[0-9]*.x86_64' 'failback-appliance-[0-9]*.noarch'; do
        mapfile -t found < <(find "$packages" -maxdepth 1 -name "$name.rpm" | sort)
        ((${#found[@]} == 1)) ||
            die "there must be one package $name.rpm in $packages, and there are ${#found[@]}; appliance/build package makes them"
        rpm -K --nosignature -- "${found[0]}" >/dev/null 2>&1 || die "${found[0]} is damaged, or no package; build it again"
        cp -- "${found[0]}" "$1/"
    done
    # The index has the time of each package's file.
    clamp_times "$1"
    # One worker, and no database: else the order and the times of what is written depend on the machine.
    createrepo_c --quiet --workers 1 --no-database --simple-md-filenames \
        --revision "$SOURCE_DATE_EPOCH" --set-timestamp-to-revision -- "$1" || die "no repository can be made of the packages in $packages"
}

# Prints the kickstart of release $1 in one file.
flat_kickstart() { kickstart/flatten "$1" || die "the kickstart of $1 cannot be put together"; }

# Prints $3 bytes of file $1 from byte $2 on.
bytes_at() { dd if="$1" iflag=skip_bytes,count_bytes,fullblock bs=64K skip="$2" count="$3" status=none; }

# The fields of the primary volume descriptor (ECMA-119, 8.4), which is sector 16: identifier, label and number of sectors of 2048.
readonly volume_descriptor=32768

has_volume_descriptor() { [[ $(bytes_at "$1" $((volume_descriptor + 1)) 5 | tr -d '\0') == CD001 ]]; }

volume_label() {
    local label
    label=$(bytes_at "$1" $((volume_descriptor + 40)) 32 | tr -d '\0')
    printf '%s' "${label%"${label##*[! ]}"}"
}

# Prints the number in $3 bytes of file $1 from byte $2 on, the lowest first.
number_at() {
    local bytes number=0 i
    read -ra bytes <<<"$(bytes_at "$1" "$2" "$3" | od -An -v -w8 -tu1)"
    for ((i = ${#bytes[@]} - 1; i >= 0; i--)); do number=$((number << 8 | bytes[i])); done
    printf '%d' "$number"
}

# Prints how long an ISO has to be: what its volume takes, and where it is partitioned what its GPT takes, whose second copy is in its
# last sector (UEFI specification, table 5-5).
least_bytes() {
    local least last
    least=$(($(number_at "$1" $((volume_descriptor + 80)) 4) * 2048))
    if [[ $(bytes_at "$1" 512 8 | tr -d '\0') == 'EFI PART' ]]; then
        last=$(number_at "$1" $((512 + 32)) 8)
        # A damaged one may say anything; what it says must be a size.
        if ((last > 0 && last < 1 << 40 && (last + 1) * 512 > least)); then least=$(((last + 1) * 512)); fi
    fi
    printf '%d' "$least"
}

# Whether there is a second tree of names, for Windows: a supplementary descriptor (type 2) after the first.
has_joliet() { [[ $(bytes_at "$1" $((volume_descriptor + 2048)) 8192 | LC_ALL=C grep -ac $'\x02CD001') != 0 ]]; }
