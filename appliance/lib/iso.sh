# shellcheck shell=bash
# What the builders of ISOs share: our packages as a repository, what an ISO says about itself, and outputs that are whole or not there.
# Sourced from the top of the repository, after scripts/lib/common.sh.

# Dies if one of these programs is missing; each is given as COMMAND=PACKAGE OF DEBIAN.
need_programs() {
    local entry
    for entry in "$@"; do
        have "${entry%%=*}" || die "${entry%%=*} is not installed; on Debian: apt-get install ${entry#*=}"
    done
}

# The date of all that is built: the last commit's, unless it is set. The same sources give the same bytes.
set_source_date() {
    if [[ -z ${SOURCE_DATE_EPOCH:-} ]]; then
        SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) ||
            die "this is no clone of the repository, so set SOURCE_DATE_EPOCH to the date of the build in seconds"
    fi
    [[ $SOURCE_DATE_EPOCH =~ ^[0-9]+$ ]] || die "SOURCE_DATE_EPOCH is $SOURCE_DATE_EPOCH; it must be a number of seconds"
    export SOURCE_DATE_EPOCH TZ=UTC
}

# Makes a directory beside output $1 for what becomes it, and leaves its name in `work`; it is gone when the script ends.
make_work_beside() {
    local directory
    directory=$(dirname -- "$1")
    [[ -d $directory ]] || die "there is no directory $directory for the output"
    [[ ! -d $1 ]] || die "the output $1 is a directory; name a file"
    work=$(mktemp -d -- "$directory/.${1##*/}.XXXXXX") || die "nothing can be written in $directory"
    trap 'rm -rf -- "$work"' EXIT
}

# Gives a finished file its name: before that, whatever had the name stays, and after it the content is durable.
publish() {
    sync -- "$1"
    mv -fT -- "$1" "$2"
    sync -- "$(dirname -- "$2")"
}

# Sets the times of all below $1 to the date of the build.
clamp_times() { find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; }

# Makes repository $2 of the packages for the appliance in directory $1: failback and failback-appliance, one of each.
make_repository() {
    local name found
    mkdir -p -- "$2"
    [[ -d $1 ]] || die "there is no directory $1 with packages; name it with --rpms"
    for name in 'failback-[0-9]*.x86_64' 'failback-appliance-[0-9]*.noarch'; do
        mapfile -t found < <(find "$1" -maxdepth 1 -name "$name.rpm" | sort)
        ((${#found[@]} == 1)) ||
            die "there must be one package $name.rpm in $1, and there are ${#found[@]}; appliance/build package makes them"
        rpm -K --nosignature -- "${found[0]}" >/dev/null 2>&1 || die "${found[0]} is damaged, or no package; build it again"
        cp -- "${found[0]}" "$2/"
    done
    # The index has the time of each package's file.
    clamp_times "$2"
    # One worker, and no database: else the order and the times of what is written depend on the machine.
    createrepo_c --quiet --workers 1 --no-database --simple-md-filenames \
        --revision "$SOURCE_DATE_EPOCH" --set-timestamp-to-revision -- "$2" || die "no repository can be made of the packages in $1"
}

# Prints the kickstart of release $1 in one file.
flat_kickstart() { kickstart/flatten "$1" || die "the kickstart of $1 cannot be put together"; }

# The fields of the primary volume descriptor (ECMA-119, 8.4), which is sector 16: identifier, label and number of sectors of 2048.
readonly volume_descriptor=32768

has_volume_descriptor() { [[ $(tail -c +$((volume_descriptor + 2)) -- "$1" | head -c 5 | tr -d '\0') == CD001 ]]; }

volume_label() {
    local label
    label=$(tail -c +$((volume_descriptor + 41)) -- "$1" | head -c 32 | tr -d '\0')
    printf '%s' "${label%"${label##*[! ]}"}"
}

volume_bytes() {
    local bytes
    read -ra bytes < <(od -An -tu1 -j $((volume_descriptor + 80)) -N 4 -- "$1")
    printf '%d' $(((bytes[0] | bytes[1] << 8 | bytes[2] << 16 | bytes[3] << 24) * 2048))
}

# Whether there is a second tree of names, for Windows: a supplementary descriptor (type 2) after the first.
has_joliet() { tail -c +$((volume_descriptor + 2049)) -- "$1" | head -c 8192 | LC_ALL=C grep -aq $'\x02CD001'; }
