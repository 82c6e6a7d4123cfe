# shellcheck shell=bash
# What the boot arguments say. Those that are not known are refused: a misspelt one would be left out in silence.

words=()
declare -A argument=()
keys=()

# Splits a command line as the kernel does: blanks separate, and double quotes keep together what stands between them. GRUB moves the
# quotes to the begin of a word.
split_command_line() {
    local text=$1 word='' quoted='' i character
    words=()
    for ((i = 0; i <= ${#text}; i++)); do
        character=${text:i:1}
        if [[ $character == '"' ]]; then
            if [[ -n $quoted ]]; then quoted=; else quoted=1; fi
        elif [[ -n $quoted && $i -lt ${#text} ]] || [[ $character == [![:space:]] ]]; then
            word+=$character
        else
            [[ -z $word ]] || words+=("$word")
            word=
        fi
    done
}

# Reads the arguments that begin with failback. from the kernel's command line.
read_arguments() {
    local word name value
    split_command_line "$(cat /proc/cmdline)"
    for word in "${words[@]}"; do
        [[ $word == failback.* ]] || continue
        name=${word%%=*} value=${word#*=}
        [[ $word == *=* && -n $value ]] || refuse "the boot argument $name has no value; write $name=VALUE."
        case $name in
        failback.sshkey) keys+=("$value") ;;
        failback.system | failback.retention | failback.ip | failback.nic | failback.hostname | failback.then)
            [[ -z ${argument[$name]:-} ]] || refuse "the boot argument $name stands there twice; leave one of them out."
            argument[$name]=$value
            ;;
        *) refuse "the boot argument $name is not known to the installation; correct it or leave it out." ;;
        esac
    done
}
