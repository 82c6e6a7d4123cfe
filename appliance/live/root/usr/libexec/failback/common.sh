# shellcheck shell=dash
# What the scripts of the live ISO share. Sourced.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM="${TERM:-linux}"
# shellcheck source=appliance/custom/files/usr/libexec/failback/wwid.sh
. /usr/libexec/failback/wwid.sh
# shellcheck source=appliance/lib/keys-and-names.sh
. /usr/libexec/failback/keys-and-names.sh
# shellcheck source=appliance/live/root/usr/libexec/failback/arguments.sh
. /usr/libexec/failback/arguments.sh

log_file=/var/log/failback.log
drive=/run/failback/drive # where the retention disk is mounted
kept=$drive/appliance     # what the appliance itself keeps there
kept_log=$kept/log/failback.log
most_log=4194304 # bytes of a log, of which one more is kept

# Seconds since the kernel began, with two decimals.
uptime_now() { cut -d' ' -f1 /proc/uptime; }

# Writes lines from standard input to the log, and to its copy on the retention disk once that is there: durably, as soon as there
# is no more for the moment.
to_log() {
    said=0
    while IFS= read -r line; do
        said=$((said + 1))
        [ $((said % 200)) != 0 ] || keep_logs_short
        line="$(date -u +%Y-%m-%dT%H:%M:%SZ) $line"
        printf '%s\n' "$line" >>"$log_file"
        [ ! -d "$kept/log" ] || { printf '%s\n' "$line" >>"$kept_log"; } 2>/dev/null || log_is_not_kept
    done
    [ ! -e "$kept_log" ] || sync "$kept_log" 2>/dev/null || log_is_not_kept
}

# Begins a new log in the place of one that has become long: there is one who talks for as long as this system runs.
keep_logs_short() {
    (
        # Of two that find it long, the second would put away what the first has begun.
        flock -n 9 || exit 0
        for log in "$log_file" "$kept_log"; do
            [ "$(stat -c %s "$log" 2>/dev/null || echo 0)" -lt "$most_log" ] || mv "$log" "$log.1"
        done
    ) 9>/run/failback/logs 2>/dev/null
}

# Says once that the log does not get to the retention disk, not with each of its lines; these are tried on, as there may be room again.
log_is_not_kept() {
    mkdir /run/failback/log-is-not-kept 2>/dev/null || return 0
    words="the log cannot be kept on the retention disk, which is full or damaged: see df and dmesg, and make room with failback point prune; meanwhile it is in memory only ($log_file)"
    printf '%s\n' "$words" >>/run/failback/problems
    printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$words" >>"$log_file"
    printf 'failback: %s\n' "$words" | to_consoles
}

# Says something on every console, and to the log.
say() {
    printf 'failback: %s\n' "$*" | to_consoles
    printf '%s\n' "$*" | to_log
}

# The same for what is wrong now; `failback check` tells of it until the next start.
warn() {
    printf '%s\n' "$*" >>/run/failback/problems
    say "$*"
}

to_consoles() {
    if grep -q ttyS0 /etc/inittab; then tee /dev/tty1 >/dev/ttyS0; else cat >/dev/tty1; fi 2>/dev/null
}

# The words of the kernel's command line, one a line, without their quotes: `a.b="c d"` and `"a.b=c d"` are the same.
command_line() {
    awk '{
        word = ""; quoted = 0; seen = 0
        for (i = 1; i <= length($0); i++) {
            letter = substr($0, i, 1)
            if (letter == "\"") { quoted = !quoted; seen = 1 }
            else if (letter == " " && !quoted) { if (seen) print word; word = ""; seen = 0 }
            else { word = word letter; seen = 1 }
        }
        if (seen) print word
    }' /proc/cmdline
}

# Every value of boot argument $1, one a line.
arguments() {
    command_line | while IFS= read -r word; do
        case $word in "$1="*) printf '%s\n' "${word#*=}" ;; esac
    done
}

# Whether boot argument $1 is refused; `boot` has said why.
refused() { command_line | refused_arguments | cut -f1 | grep -qxF -- "$1"; }

# The value of boot argument $1, which may be there once; nothing of one that is refused.
argument() { refused "$1" || arguments "$1"; }

# The names of all disks: what is made of others, or of memory, or reads discs, is none.
disks() {
    for disk in /sys/block/*; do
        disk=${disk##*/}
        case $disk in
        # nvme0c0n1 is a path to nvme0n1, and cannot be opened.
        '*' | loop* | ram* | zram* | sr* | fd* | dm-* | md* | nbd* | nvme*c*n*) ;;
        *) printf '%s\n' "$disk" ;;
        esac
    done
}

# What names disk $1 wherever it is attached, as the kernel tells it: a WWID, the serial number of a virtio disk, or what VMware
# calls its UUID where the kernel makes no WWID of it; nothing where there is no such name.
name_of() {
    find_names "/sys/block/$1"
    printf '%s\n' "${wwid:-$uuid}"
}

# The 32 digits of disk $1 that VMware calls its UUID, from page 0x83 or 0x80; nothing where there are none.
scsi_uuid_of() {
    find_names "/sys/block/$1"
    [ -z "$uuid" ] || printf '%s\n' "$uuid"
}

# The disk that a device, such as sda1, is a part of.
disk_of() {
    if [ -e "/sys/class/block/$1/partition" ]; then
        basename "$(dirname "$(readlink -f "/sys/class/block/$1")")"
    else
        printf '%s\n' "$1"
    fi
}

# Calls a command until it prints something, and a second later the same, for up to some 20 seconds: disks may be slow to appear, and
# one that looks like another must not win by being quicker.
patiently() {
    for _ in $(seq 100); do
        found=$("$@")
        if [ -n "$found" ]; then
            sleep 1
            [ "$("$@")" != "$found" ] || break
        fi
        sleep 0.2
    done
    printf '%s\n' "$found"
}
