# shellcheck shell=bash
# Disk images with real content: ext4 file systems made of files found on this machine, without root.

# Prints "size path" of real files in a fixed order. Names are plain, so that debugfs takes them as they are.
list_real_files() {
    local roots=() root
    for root in /usr/bin /usr/lib /usr/share /usr/include /opt "${CARGO_HOME:-${HOME:-/root}/.cargo}/registry" \
        "${RUSTUP_HOME:-${HOME:-/root}/.rustup}/toolchains"; do
        [[ -d $root ]] && roots+=("$root")
    done
    # A directory that may not be entered, or a file that goes away meanwhile, is no reason to stop.
    { find "${roots[@]}" -xdev -type f -readable -size +0 -size -32M -regex '[A-Za-z0-9._/+-]*' \
        -printf '%s %p\n' 2>/dev/null || true; } | sort -k2
}

# Reads "size path" lines; prints the paths of every n-th file so that they fill about $1 MiB and come from everywhere.
thin_to_mib() {
    awk -v limit="$1" '
        { size[NR] = int(($1 + 4095) / 4096) * 4096; path[NR] = $2; total += size[NR] }
        END {
            limit *= 1048576
            step = total > limit ? total / limit : 1
            for (i = 1; int(i) <= NR; i += step) {
                used += size[int(i)]
                if (used > limit) break
                print path[int(i)]
            }
        }'
}

# Copies the files named on stdin below directory $1, under their whole paths.
stage_files() {
    mkdir -p "$1"
    xargs -r -d '\n' cp --parents --preserve=mode,timestamps --reflink=auto -t "$1" -- 2>/dev/null || true
}

# Makes image $1 of size $2 (as truncate writes it) from directory $3: an ext4 with fixed identity. Further words are
# options of mke2fs.
make_ext4() {
    local image=$1 size=$2 from=$3
    local extended=hash_seed=5ca1ab1e-0000-4000-8000-000000000002,lazy_itable_init=0,root_owner
    shift 3
    rm -f -- "$image"
    truncate -s "$size" "$image"
    E2FSPROGS_FAKE_TIME=1700000000 mke2fs -q -F -t ext4 -b 4096 -m 0 -d "$from" \
        -U 5ca1ab1e-0000-4000-8000-000000000001 -E "$extended" "$@" "$image" >/dev/null
}

# Runs the commands of file $2 on the file system in image $1; debugfs says what failed only in words.
edit_ext4() {
    local words
    words=$(E2FSPROGS_FAKE_TIME=1700086400 debugfs -w -f "$2" "$1" 2>&1 >/dev/null) || die "debugfs failed: $words"
    words=$(grep -v '^debugfs ' <<<"$words" || true)
    [[ -z $words ]] || die "debugfs: $words"
}

# Gives back the free space of the file system in image $1, as fstrim in a running system does: it reads as zeroes then.
trim_ext4() { E2FSCK_TIME=1700086400 e2fsck -fy -E discard "$1" >/dev/null 2>&1 || die "e2fsck could not trim $1"; }

# The file system in image $1 is without fault.
check_ext4() { e2fsck -fn "$1" >/dev/null 2>&1 || die "e2fsck finds faults in $1"; }

# Makes in directory $1 an ext4 image base.img of $2 MiB that is nearly full, and leaves two lists of paths: staged.list
# has the files in it, spare.list the others.
make_full_ext4() {
    local dir=$1 size=$2
    list_real_files >"$dir/all.list"
    thin_to_mib $((size * 90 / 100 - 72)) <"$dir/all.list" >"$dir/staged.list"
    awk '{ print $2 }' "$dir/all.list" | grep -vxFf "$dir/staged.list" >"$dir/spare.list" ||
        cp "$dir/staged.list" "$dir/spare.list"
    stage_files "$dir/staged" <"$dir/staged.list"
    make_ext4 "$dir/base.img" "${size}M" "$dir/staged" -N $(($(wc -l <"$dir/staged.list") * 5 / 4 + 4096))
    rm -rf -- "$dir/staged"
}

# Prints how many bytes are free in the file system in image $1.
free_bytes_ext4() { dumpe2fs -h "$1" 2>/dev/null | awk '/^Free blocks:/ { print $3 * 4096 }'; }

# Writes file $2 into the root directory of the file system in image $1.
add_to_ext4() {
    local edits
    edits=$(mktemp)
    printf 'write "%s" %s\n' "$2" "${2##*/}" >"$edits"
    edit_ext4 "$1" "$edits"
    rm -f -- "$edits"
    check_ext4 "$1"
}
