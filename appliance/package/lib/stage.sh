# shellcheck shell=bash
# shellcheck disable=SC2154 # $binary and $package are those of the build that sources this.
# What is installed, in trees that packages are made from. Modes are those of the installed files.

package=appliance/package

# Copies file $2 to place $3 with mode $1.
put() { install -D -m "$1" -- "$2" "$3"; }

# The same for a script, which is executable. Its interpreter is that of the system, whatever the PATH of its caller has first.
put_script() {
    put 755 "$1" "$2"
    sed -i '1s:^#!/usr/bin/env bash$:#!/usr/bin/bash:' -- "$2"
}

# Compresses files for good, and the same each time.
squeeze() { gzip -9n -- "$@"; }

# What every package of failback has, into tree $1: the program, its pages, completions and configuration. $2 is where zsh looks.
stage_program() {
    local root=$1 zsh=$2 man=$1/usr/share/man
    put 755 "$binary" "$root/usr/bin/failback"
    mkdir -p -- "$man/man1" "$man/man5"
    "$binary" man "$man/man1" || die "$binary cannot write its man pages"
    put 644 "$package/man/failback.toml.5" "$man/man5/failback.toml.5"
    date_pages "$man/man5/failback.toml.5"
    squeeze "$man"/man1/*.1 "$man"/man5/*.5
    stage_completion bash "$root/usr/share/bash-completion/completions/failback"
    stage_completion zsh "$root$zsh/_failback"
    stage_completion fish "$root/usr/share/fish/vendor_completions.d/failback.fish"
    put 644 "$package/files/tmpfiles.conf" "$root/usr/lib/tmpfiles.d/failback.conf"
    put 644 "$package/files/failback.toml" "$root/etc/failback/failback.toml"
    install -d -m 700 -- "$root/var/lib/failback"
    stage_documents "$root/usr/share/doc/failback"
}

# The completion script for shell $1, as file $2.
stage_completion() {
    mkdir -p -- "${2%/*}"
    "$binary" completions "$1" >"$2" || die "$binary cannot write completions for $1"
}

stage_documents() {
    put 644 README.md "$1/README.md"
    put 644 ARCHITECTURE.md "$1/ARCHITECTURE.md"
    put 644 agent/delta/FORMAT.md "$1/delta-format.md"
    put 644 agent/retention/FORMAT.md "$1/retention-format.md"
}

# Pages that are kept as files say the date and version that they are packaged with.
date_pages() {
    sed -i -e "s/@DATE@/$(date --utc --date="@$SOURCE_DATE_EPOCH" +%F)/" -e "s/@VERSION@/$(version)/" -- "$@"
}

# What CentOS Stream has in other places than Debian, or only one of them has: into tree $1, from the list of crates in $2.
stage_for_centos() {
    local licences=$1/usr/share/licenses/failback file
    put 644 CHANGELOG.md "$1/usr/share/doc/failback/CHANGELOG.md"
    for file in LICENSE LICENSE-APACHE LICENSE-MIT; do put 644 "$file" "$licences/$file"; done
    licence_notices "$2" >"$licences/THIRD-PARTY"
    put 644 "$package/files/sysctl.conf" "$1/usr/lib/sysctl.d/60-failback.conf"
}

# The same for Debian, whose kernels leave io_uring switched on: the setting would take it from those who use it there.
stage_for_debian() {
    local documents=$1/usr/share/doc/failback
    put 644 CHANGELOG.md "$documents/changelog"
    debian_changelog >"$documents/changelog.Debian"
    put 644 "$package/debian/copyright" "$documents/copyright"
    licence_notices "$2" >"$documents/THIRD-PARTY"
    squeeze "$documents/changelog" "$documents/changelog.Debian" "$documents/THIRD-PARTY"
    put 644 "$package/debian/lintian-overrides" "$1/usr/share/lintian/overrides/failback"
}

debian_changelog() {
    printf 'failback (%s-1) unstable; urgency=medium\n\n  * What is new stands in changelog.gz.\n\n -- %s  %s\n' "$(version)" \
        "$(sed -n 's/^Maintainer: //p' "$package/debian/control")" "$(date --utc --date="@$SOURCE_DATE_EPOCH" -R)"
}

# What makes a machine a master target, into tree $1.
stage_appliance() {
    local units=$1/usr/lib/systemd/system libexec=$1/usr/libexec/failback unit
    [[ -x scripts/apply-custom-changes ]] ||
        die "scripts/apply-custom-changes is missing or not executable: without it a master target is not safe, so no package is made"
    [[ -d appliance/custom ]] || die "appliance/custom is missing: this source tree is not complete"
    put_script scripts/apply-custom-changes "$libexec/apply-custom-changes"
    put_script "$package/files/network" "$libexec/network"
    stage_custom_files "$1/usr/share/failback/custom"
    for unit in "$package"/units/*.service; do put 644 "$unit" "$units/${unit##*/}"; done
    ln -s failback-console@.service "$units/getty@tty1.service"
    ln -s failback-console@.service "$units/serial-getty@ttyS0.service"
    put 644 "$package/units/80-failback-appliance.preset" "$1/usr/lib/systemd/system-preset/80-failback-appliance.preset"
    put 644 "$package/files/firewalld.xml" "$1/usr/lib/firewalld/services/failback.xml"
    put 644 "$package/man/failback-appliance.7" "$1/usr/share/man/man7/failback-appliance.7"
    date_pages "$1/usr/share/man/man7/failback-appliance.7"
    squeeze "$1/usr/share/man/man7/failback-appliance.7"
}

# What apply-custom-changes installs: all of appliance/custom, programs as programs.
stage_custom_files() {
    local file
    mkdir -p -- "$1"
    while IFS= read -r -d '' file; do
        if [[ -x appliance/custom/$file ]]; then
            put_script "appliance/custom/$file" "$1/$file"
        else
            put 644 "appliance/custom/$file" "$1/$file"
        fi
    done < <(find appliance/custom -type f -printf '%P\0')
}

# The verbs that units start are verbs of the program.
check_units() {
    local unit verb
    for unit in "$package"/units/*.service; do
        verb=$(sed -n 's:^ExecStart=/usr/bin/failback \([a-z-]*\).*:\1:p' "$unit")
        "$binary" "$verb" --help >/dev/null 2>&1 ||
            die "$binary has no verb '$verb', which ${unit##*/} starts: build it from this source tree"
    done
}
