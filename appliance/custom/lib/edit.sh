# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # root, mode and changed are the script's too
# One way to have a thing as it should be, in two modes: `apply` makes it so, `check` tells of what is not. As both go through
# the same functions, an item that was applied is one that the check finds in order.
#
# Files are replaced by a rename after a sync, so that a power cut leaves the old or the new one. What was there before our first change is
# kept below `backup`. What is as it should be is not touched.

backup=/var/lib/failback/before-custom-changes
declare -A places=() # directory -> where it is
changed=0            # whether this run has changed something
temporary=''

# Sets variable $1 to the content of file $2, with every line end; fails if it cannot be kept in a variable (bytes of value 0).
read_file() {
    local -n read_into=$1
    IFS= read -r -d '' read_into <"$2" || true
    ((${#read_into} == $(stat -L -c %s -- "$2")))
}

# Sets `at` to where path $1 of the tree is. A link that leads out of the tree is refused: it is one of the machine we run on.
find_place() {
    local directory=${1%/*}
    if [[ -z ${places[$directory]:-} ]]; then
        places[$directory]=$(realpath -m -- "$root$directory")
        [[ -z $root || ${places[$directory]}/ == "$root"/* ]] ||
            refuse "$directory leads out of $root by a symbolic link; make the link a relative one"
    fi
    at=${places[$directory]}/${1##*/}
}

# Tells of a problem, in check mode.
problem() { problems+=("$*"); }

# Keeps what is at $1 of the tree, which is `at`, unless something was kept before.
keep_before() {
    local kept=$root$backup$1
    [[ -e $at || -L $at ]] || return 0
    [[ ! -e $kept && ! -L $kept ]] || return 0
    mkdir -p -- "${kept%/*}"
    cp -a -- "$at" "$kept"
}

# Writes content $2 with permissions $3 to path $1 of the tree, which is `at`. What a file of others has of owner and label stays.
write_file() {
    mkdir -p -- "${at%/*}"
    keep_before "$1"
    temporary=$(mktemp -- "${at%/*}/.failback.XXXXXX")
    if [[ -f $at && ! -L $at ]]; then cp -a --attributes-only -- "$at" "$temporary"; fi
    printf '%s' "$2" >"$temporary"
    [[ -z $3 ]] || chmod -- "$3" "$temporary"
    sync -- "$temporary"
    mv -T -- "$temporary" "$at"
    temporary=''
    sync -- "${at%/*}"
    changed=1
    note "wrote $1"
}

# A file of ours: path $1 has content $2 and permissions $3.
ensure_file() {
    local at found=''
    find_place "$1"
    if [[ -f $at && ! -L $at ]] && read_file found "$at" && [[ $found == "$2" && $(stat -c %a -- "$at") == "$3" ]]; then return; fi
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
    find_place "$1"
    if [[ -L $at ]]; then
        at=$(realpath -m -- "$at")
        [[ -z $root || $at == "$root"/* ]] || refuse "$1 leads out of $root by a symbolic link; make the link a relative one"
    fi
    if [[ -f $at ]]; then read_file found "$at" || refuse "$1 holds bytes that are no text; repair it"; fi
    [[ $found != "$2" ]] || return 0
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
    find_place "$2"
    place_into=''
    [[ -f $at ]] || return 0
    read_file place_into "$at" || refuse "$2 holds bytes that are no text; repair it"
}

# Whether path $1 of the tree is there.
is_there() {
    local at
    find_place "$1"
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
        if [[ $mode == check ]]; then
            problem "$directory/$name does not mask it"
            continue
        fi
        mask "$directory/$name"
    done
}

mask() {
    local at
    find_place "$1"
    [[ -d ${at%/*} ]] || mkdir -p -- "${at%/*}"
    keep_before "$1"
    [[ ! -d $at || -L $at ]] || refuse "$1 is a directory; remove it"
    # A link over what is there comes by a rename.
    ln -sfT -- /dev/null "$at"
    changed=1
    note "masked ${1##*/}"
}

remove_temporary() { [[ -z $temporary ]] || rm -f -- "$temporary"; }
