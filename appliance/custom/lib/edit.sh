# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # root, mode and changed are the script's too
# One way to have a thing as it should be, in two modes: `apply` makes it so, `check` tells of what is not. As both go through
# the same functions, an item that was applied is one that the check finds in order.
#
# Files are replaced by a rename after a sync, so that a power cut leaves the old or the new one. What was there before our first change is
# kept below `backup`, in the same way. What is as it should be is not touched.
#
# The check refuses every place that cannot be changed, so that an apply, which begins with it, is refused before its first change. A
# refusal ends the shell it is in: no function that can refuse may run in a process substitution.

backup=/var/lib/failback/before-custom-changes
declare -A places=()   # directory -> where it is
declare -A searched=() # the keys are the places of all directories that were looked into
changed=0              # whether this run has changed something
temporary=''

# Sets variable $1 to the content of file $2, with every line end; fails if it cannot be kept in a variable (bytes of value 0).
read_file() {
    local -n read_into=$1
    IFS= read -r -d '' read_into <"$2" || true
    ((${#read_into} == $(stat -L -c %s -- "$2")))
}

# Refuses place $2, which is that of path $1, if it is not in the tree.
keep_inside() {
    [[ -z $root || $2/ == "$root"/* ]] || refuse "$1 leads out of $root by a symbolic link; make the link a relative one"
    return 0
}

# Sets `at` to where path $1 of the tree is. A link that leads out of the tree is refused: it is one of the machine we run on.
find_place() {
    local directory=${1%/*}
    if [[ -z ${places[$directory]:-} ]]; then
        places[$directory]=$(realpath -m -- "$root$directory")
        keep_inside "$directory" "${places[$directory]}"
        searched[${places[$directory]}]=1
    fi
    at=${places[$directory]}/${1##*/}
}

# The same, where what is at path $1 may be a link as well: `at` is where it leads to.
find_target() {
    find_place "$1"
    [[ -L $at ]] || return 0
    at=$(realpath -m -- "$at")
    keep_inside "$1" "$at"
    searched[${at%/*}]=1
}

# Sets `kept` to where that is kept which was at path $1 of the tree.
find_kept() {
    local at
    find_place "$backup$1"
    kept=$at
}

# Tells of a problem, in check mode.
problem() { problems+=("$*"); }

# Refuses path $1 of the tree, which is `at`, if no file can be put there or what is there cannot be kept.
fit_place() {
    local kept forbidden='lift what forbids it, such as chattr +i or a read-only file system'
    fit_kind "$1"
    [[ -L $at || ! -e $at || -w $at ]] || refuse "$1 may not be written: $forbidden"
    fit_directory "$1" "$at"
    [[ -e $at || -L $at ]] || return 0
    find_kept "$1"
    [[ -e $kept || -L $kept ]] || fit_directory "$backup$1" "$kept"
}

# Refuses path $1 of the tree, which is `at`, if it is neither free nor a file or a link.
fit_kind() { [[ ! -e $at || -f $at || -L $at ]] || refuse "$1 is a $(stat -c %F -- "$at"), where a file belongs; move it away"; }

# Refuses path $1 of the tree, which is $2, if nothing can be made in its directory, or there can be none.
fit_directory() {
    local directory=${2%/*}
    # What is still a link leads to itself.
    while [[ -n $directory && ! -e $directory && ! -L $directory ]]; do directory=${directory%/*}; done
    directory=${directory:-/}
    [[ -d $directory ]] || refuse "$1 cannot be made: ${directory#"$root"} is no directory; move it away"
    [[ -w $directory ]] || refuse "$1 may not be written: $forbidden"
}

# Runs the command that follows, which changes path $1 of the tree. What the check could not foresee ends the run.
try() {
    local words
    words=$("${@:2}" 2>&1) || stop_at "$1" "$words"
}

# Ends the run because of path $1, of which a command said $2.
stop_at() {
    local reason=${2##*: }
    die "$1 cannot be changed (${reason:-its command was ended}): mend that, and run this again, which goes on from here"
}

# Makes directory $2 for path $1 of the tree, so that a power cut does not take it away again.
make_directory() {
    local directory=$2 missing=()
    while [[ -n $directory && ! -d $directory ]]; do
        missing+=("$directory")
        directory=${directory%/*}
    done
    ((${#missing[@]})) || return 0
    try "$1" mkdir -p -- "$2"
    try "$1" sync -- "${directory:-/}" "${missing[@]}"
}

# Sets `temporary` to a new file beside place $2, for path $1 of the tree.
make_temporary() {
    local made
    make_directory "$1" "${2%/*}"
    made=$(mktemp -- "${2%/*}/.failback.XXXXXX" 2>&1) || stop_at "$1" "$made"
    temporary=$made
}

# Gives the temporary file the name $2, which is that of path $1 of the tree, once its content is on the disk.
rename_temporary() {
    # A link has no content of its own.
    [[ -L $temporary ]] || try "$1" sync -- "$temporary"
    try "$1" mv -T -- "$temporary" "$2"
    temporary=''
    try "$1" sync -- "${2%/*}"
}

# Keeps what is at path $1 of the tree, which is `at`, unless something was kept before.
keep_before() {
    local kept
    [[ -e $at || -L $at ]] || return 0
    find_kept "$1"
    [[ ! -e $kept && ! -L $kept ]] || return 0
    make_temporary "$backup$1" "$kept"
    try "$backup$1" cp -aT --remove-destination -- "$at" "$temporary"
    rename_temporary "$backup$1" "$kept"
}

put() { printf '%s' "$1" >"$2"; }

# Writes content $2 with permissions $3 to path $1 of the tree, which is `at`. What a file of others has of owner and label stays.
write_file() {
    keep_before "$1"
    make_temporary "$1" "$at"
    if [[ -f $at && ! -L $at ]]; then try "$1" cp -a --attributes-only -- "$at" "$temporary"; fi
    try "$1" put "$2" "$temporary"
    [[ -z $3 ]] || try "$1" chmod -- "$3" "$temporary"
    rename_temporary "$1" "$at"
    changed=1
    note "wrote $1"
}

# A file of ours: path $1 has content $2 and permissions $3.
ensure_file() {
    local at found=''
    find_place "$1"
    if [[ -f $at && ! -L $at ]] && read_file found "$at" && [[ $found == "$2" && $(stat -c %a -- "$at") == "$3" ]]; then return; fi
    fit_place "$1"
    if [[ $mode == apply ]]; then
        write_file "$1" "$2" "$3"
    elif [[ -e $at || -L $at ]]; then
        problem "$1 is not what belongs there"
    else
        problem "$1 is missing"
    fi
}

# A file of others, in which something is to change: path $1 has content $2; $3 is what is wrong otherwise. A link to it stays a link.
ensure_edited() {
    local at found=''
    find_target "$1"
    if [[ -f $at ]]; then read_file found "$at" || refuse "$1 holds bytes that are no text; repair it"; fi
    [[ $found != "$2" ]] || return 0
    fit_place "$1"
    if [[ $mode == apply ]]; then
        local new=''
        [[ -e $at ]] || new=644
        write_file "$1" "$2" "$new"
    else
        problem "$3"
    fi
}

# Sets variable $1 to the content of path $2 of the tree; nothing if it is not there.
read_place() {
    local at
    local -n place_into=$1
    place_into=''
    find_place "$2"
    # A file that somebody switched off.
    [[ $(readlink -- "$at") != /dev/null ]] || return 0
    find_target "$2"
    fit_kind "$2"
    [[ -e $at ]] || return 0
    read_file place_into "$at" || refuse "$2 holds bytes that are no text; repair it"
}

# Whether path $1 of the tree is there.
is_there() {
    local at
    find_target "$1"
    [[ -e $at ]]
}

# The files of directory $1 of the tree are links to /dev/null by these names: what systemd takes for masked.
ensure_masks() {
    local directory=$1 at name
    local -A masked=()
    shift
    find_place "$directory/x"
    at=${at%/*}
    while IFS= read -r name; do masked[$name]=1; done < <(find "$at" -maxdepth 1 -lname /dev/null -printf '%f\n' 2>/dev/null)
    for name; do
        [[ -z ${masked[$name]:-} ]] || continue
        find_place "$directory/$name"
        fit_place "$directory/$name"
        if [[ $mode == check ]]; then
            problem "$directory/$name does not mask it"
            continue
        fi
        mask "$directory/$name"
    done
}

# Masks the unit at path $1 of the tree, which is `at`.
mask() {
    make_directory "$1" "${at%/*}"
    keep_before "$1"
    # A link over what is there comes by a rename.
    try "$1" ln -sfT -- /dev/null "$at"
    changed=1
    note "masked ${1##*/}"
}

remove_temporary() { [[ -z $temporary ]] || rm -f -- "$temporary"; }

# Removes the temporary files that a run left which was killed: there is no other run than this one.
remove_stale() {
    local directory stale
    for directory in "${!searched[@]}"; do
        for stale in "$directory"/.failback.[[:alnum:]][[:alnum:]][[:alnum:]][[:alnum:]][[:alnum:]][[:alnum:]]; do
            [[ -f $stale || -L $stale ]] || continue
            try "${stale#"$root"}" rm -f -- "$stale"
            note "removed ${stale#"$root"}, which a run that was killed left there"
        done
    done
}
