# shellcheck shell=bash
# What the parts of appliance/build share. A part changes to the top of the repository and then sources this.

# Where the part was called from: there begin the relative paths that its user gives.
called_from=${OLDPWD:-$PWD}

source scripts/lib/common.sh

# The same bytes, whoever builds them and where.
umask 022
export TZ=UTC

# What releases and packages are built for.
rust_target=x86_64-unknown-linux-gnu

# Prints path $1 as it is meant by the user.
user_path() {
    case $1 in
    /*) printf '%s\n' "$1" ;;
    *) printf '%s\n' "$called_from/$1" ;;
    esac
}

# Makes the directory for what is built and prints its whole path: $1 as the user gave it, or target/appliance.
output_directory() {
    local directory=${CARGO_TARGET_DIR:-target}/appliance
    [[ -z ${1:-} ]] || directory=$(user_path "$1")
    mkdir -p -- "$directory" || die "$directory cannot be made: name another directory with -o"
    realpath -- "$directory"
}

# The file $1 that is to be made is not there yet, or is a file: a rename would put it in the place of a device's node, not on the device.
check_output() {
    [[ ! -L $1 && (! -e $1 || -f $1) ]] ||
        die "the output $1 is there and is no regular file, so it is not replaced; name another file with -o, and copy that to a stick with dd"
}

# A misuse of a part: says what is wrong, then how it is used.
misused() {
    printf '%s: %s\n\n' "${0##*/}" "$*" >&2
    usage >&2
    exit 2
}

# Every named program is there.
require() {
    local program missing=()
    for program in "$@"; do
        have "$program" || missing+=("$program")
    done
    ((${#missing[@]} == 0)) || die "missing: ${missing[*]}; run scripts/setup appliance"
}

# The version of the workspace.
version() { sed -n '/^\[workspace\.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml; }

# Exports SOURCE_DATE_EPOCH, the only time that a build knows: when the last commit was made, unless it is set.
use_source_date() {
    if [[ -z ${SOURCE_DATE_EPOCH:-} ]]; then
        SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) ||
            die "git does not tell when the last commit was made: set SOURCE_DATE_EPOCH to the seconds since 1970"
    fi
    [[ $SOURCE_DATE_EPOCH =~ ^[0-9]{1,10}$ ]] ||
        die "SOURCE_DATE_EPOCH is '$SOURCE_DATE_EPOCH': set it to the seconds since 1970, or not at all"
    export SOURCE_DATE_EPOCH
}

# Sets the time of everything below $1 to SOURCE_DATE_EPOCH.
clamp_times() { find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" -- {} +; }

# Sets `binary` to the whole path of the statically linked program: file $1 as the user gave it, or one that is built here if $1 is
# empty.
use_binary() {
    require readelf
    if [[ -n ${1:-} ]]; then
        binary=$(user_path "$1")
    else
        build_static_binary
        binary=${CARGO_TARGET_DIR:-target}/$rust_target/release/failback
    fi
    [[ -f $binary ]] || die "$binary is no file: name a statically linked failback with --binary, or leave that out"
    binary=$(realpath -- "$binary")
    check_static_binary "$binary"
}

# Builds it. Nothing in it tells of the directories that it was built in.
build_static_binary() {
    local cargo_home sysroot commit flags
    require cargo
    cargo_home=$(realpath -m -- "${CARGO_HOME:-${HOME:-/root}/.cargo}")
    sysroot=$(rustc --print sysroot)
    commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
    flags=(-C target-feature=+crt-static
        "--remap-path-prefix=$PWD=/failback"
        "--remap-path-prefix=$cargo_home=/cargo"
        "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc/$commit")
    CARGO_ENCODED_RUSTFLAGS=$(
        IFS=$'\x1f'
        printf '%s' "${flags[*]}"
    ) CARGO_PROFILE_RELEASE_STRIP=symbols \
        cargo build --release --locked --target "$rust_target" --bin failback ||
        die "failback could not be built"
}

# File $1 is a failback of this version for x86-64 that needs no library.
check_static_binary() {
    local headers
    read_headers "$1"
    [[ $headers != *"INTERP "* && $headers != *"(NEEDED)"* ]] ||
        die "$1 is linked dynamically, and would not run on other distributions: leave --binary out to build a static one"
    check_binary "$1"
}

# Sets `headers` to what program $1 says of itself.
read_headers() {
    headers=$(LC_ALL=C readelf -hldW -- "$1" 2>/dev/null) || headers=
    [[ $headers == *"Class:"*ELF64* && $headers == *"Machine:"*X86-64* && $headers == *"Type:"*@(EXEC|DYN)* ]] ||
        die "$1 is no program for x86-64 Linux: name a failback with --binary, or leave that out to build one"
}

# File $1 is a failback of this version for x86-64.
check_binary() {
    local headers said
    read_headers "$1"
    [[ -x $1 ]] || die "$1 is not executable: chmod +x it"
    said=$("$1" --version 2>/dev/null </dev/null) || said="nothing"
    said=${said%%$'\n'*}
    [[ $said == "failback $(version)" ]] ||
        die "$1 --version says \"$said\", not \"failback $(version)\": build it from this source tree"
}
