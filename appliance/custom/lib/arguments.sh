# shellcheck shell=bash
# shellcheck disable=SC2154 # custom is the script's
# The kernel's command line: where it is configured, and bringing our arguments into it without touching the others.

grub_defaults=/etc/default/grub
kernel_cmdline=/etc/kernel/cmdline
boot_entries=/boot/loader/entries

# Sets `files` to the paths in the tree that hold command lines.
find_argument_files() {
    local at entry path
    files=()
    for path in "$grub_defaults" "$kernel_cmdline"; do
        ! is_there "$path" || files+=("$path")
    done
    find_place "$boot_entries/x"
    for entry in "${at%/*}"/*.conf; do
        path=$boot_entries/${entry##*/}
        [[ $entry == *'/*.conf' ]] || ! is_there "$path" || files+=("$path")
    done
}

# Whether line $1 of GRUB's defaults, which is a program of the shell, sets GRUB_CMDLINE_LINUX.
sets_arguments() {
    local name=GRUB_CMDLINE_LINUX comment='(^|[[:blank:]])#[^"'\'']*$'
    local line=$1 pattern="(^|[^A-Za-z0-9_\${])$name([^A-Za-z0-9_]|\$)|[{]$name:?="
    [[ ! $line =~ ^[[:blank:]]*# ]] || return 1
    [[ ! $line =~ $comment ]] || line=${line%"${BASH_REMATCH[0]}"}
    [[ $line =~ $pattern ]]
}

# Sets `at_line` to the number of the line of `lines` that holds the command line of file $1, -1 if none does, and `before`,
# `arguments` and `after` to its parts. Fails if it is written in a way that is not understood.
find_arguments() {
    local number line value quoted='^("([^"]*)"|'\''([^'\'']*)'\''|([^[:blank:]"'\''\\;&|<>()`]*))([[:blank:]]+#.*|[[:blank:]]*)$'
    at_line=-1 before='' arguments='' after=''
    for ((number = 0; number < ${#lines[@]}; number++)); do
        line=${lines[number]}
        case $1 in
        "$grub_defaults")
            sets_arguments "$line" || continue
            [[ $line =~ ^[[:blank:]]*GRUB_CMDLINE_LINUX=(.*)$ ]] || return 1
            value=${BASH_REMATCH[1]}
            # One that goes on with what it was before has arguments that are not in this line.
            [[ ! $value =~ [$][{]?GRUB_CMDLINE_LINUX([^A-Za-z0-9_]|$) && $value =~ $quoted ]] || return 1
            at_line=$number arguments=${BASH_REMATCH[2]}${BASH_REMATCH[3]}${BASH_REMATCH[4]}
            before='GRUB_CMDLINE_LINUX="' after="\"${BASH_REMATCH[5]}"
            # What stands in single quotes is taken as it is by the shell, in double quotes it is not.
            [[ $value != \'* ]] || before="GRUB_CMDLINE_LINUX='" after="'${BASH_REMATCH[5]}"
            ;;
        "$kernel_cmdline")
            [[ $line != \#* && $line == *[![:blank:]]* ]] || continue
            at_line=$number arguments=$line
            ;;
        *)
            [[ $line =~ ^(options[[:blank:]]+)(.*)$ ]] || continue
            at_line=$number before=${BASH_REMATCH[1]} arguments=${BASH_REMATCH[2]}
            ;;
        esac
    done
}

# What a file without a command line gets: the beginning and the end of one.
new_command_line() {
    case $1 in
    "$grub_defaults") before='GRUB_CMDLINE_LINUX="' after='"' ;;
    "$kernel_cmdline") ;;
    *) before='options ' ;;
    esac
}

# Sets `merged` to the command line $1 with our arguments, and `lacking` to those that it did not have. Others stay where they are; of an
# argument of ours with another value the last word would count, so all of those go.
merge_arguments() {
    local wanted beginnings beginning key word last text=" $1 " words
    lacking=()
    while read -r wanted beginnings; do
        [[ -n $wanted && $wanted != \#* ]] || continue
        for beginning in $beginnings; do
            [[ $text != *" $beginning"* ]] || continue 2
        done
        key=${wanted%%=*} last=''
        read -ra words <<<"$text"
        for word in "${words[@]}"; do
            [[ ${word%%=*} != "$key" ]] || last=$word
        done
        [[ $last != "$wanted" ]] || continue
        lacking+=("$wanted")
        for word in "${words[@]}"; do
            [[ ${word%%=*} != "$key" ]] || text=${text/" $word "/ }
        done
        text="${text%" "} $wanted "
    done <"$custom/kernel-arguments"
    merged=${text# } merged=${merged% }
}

# The item: every command line has our arguments.
kernel_arguments() {
    local files path text lines at_line before arguments after merged lacking
    find_argument_files
    for path in "${files[@]}"; do
        read_place text "$path"
        mapfile -t lines <<<"${text%$'\n'}"
        if ! find_arguments "$path"; then
            problem "GRUB_CMDLINE_LINUX in $path is written in a way that is not understood: write it once, as one line GRUB_CMDLINE_LINUX=\"…\", without += and export"
            continue
        fi
        merge_arguments "$arguments"
        ((${#lacking[@]})) || continue
        if ((at_line < 0)); then
            new_command_line "$path"
            at_line=${#lines[@]}
            [[ -n $text ]] || at_line=0
        fi
        lines[at_line]=$before$merged$after
        ensure_edited "$path" "$(printf '%s\n' "${lines[@]}")"$'\n' "$path lacks ${lacking[*]}"
    done
    if ((${#files[@]} == 0)) && ! is_live; then
        merge_arguments ''
        problem "no configuration of a boot loader is known here: give the kernel the arguments ${lacking[*]}"
    fi
}

# Sets the array $1 to the values that arguments named $2… have in any command line, such as cs/root for rd.lvm.lv.
values_of() {
    local -n values=$1
    local path text lines at_line before arguments after word key files words
    values=()
    shift
    find_argument_files
    for path in "${files[@]}" /proc/cmdline; do
        if [[ $path == /proc/cmdline ]]; then
            is_live || continue
            arguments=$(</proc/cmdline)
        else
            read_place text "$path"
            mapfile -t lines <<<"${text%$'\n'}"
            # What is not understood may name volumes of the appliance's own: any word of it.
            if ! find_arguments "$path"; then
                arguments=${lines[*]//[\"\'\\;]/ }
                arguments=${arguments//GRUB_CMDLINE_LINUX=/ }
            fi
        fi
        read -ra words <<<"$arguments"
        for word in "${words[@]}"; do
            for key; do
                [[ $word != "$key="?* ]] || values+=("${word#*=}")
            done
        done
    done
}

# The item: GRUB's configuration is made without looking into other disks for systems.
os_prober() {
    local text lines number found=-1 wanted=GRUB_DISABLE_OS_PROBER=true
    is_there "$grub_defaults" || return 0
    read_place text "$grub_defaults"
    mapfile -t lines <<<"${text%$'\n'}"
    for ((number = 0; number < ${#lines[@]}; number++)); do
        [[ ! ${lines[number]} =~ ^[[:blank:]]*GRUB_DISABLE_OS_PROBER= ]] || found=$number
    done
    ((found >= 0)) || found=${#lines[@]}
    [[ ${lines[found]:-} =~ ^[[:blank:]]*GRUB_DISABLE_OS_PROBER=[\"\']?true[\"\']?[[:blank:]]*$ ]] || lines[found]=$wanted
    ensure_edited "$grub_defaults" "$(printf '%s\n' "${lines[@]}")"$'\n' "$grub_defaults lets os-prober mount other disks: it lacks $wanted"
}
