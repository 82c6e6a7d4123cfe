# shellcheck shell=bash
# What the program is made of, and under which licences: a statically linked program carries all of its libraries.

# Writes into directory $1 a file `crates`: a line "NAME VERSION LICENCE DIRECTORY" for each library that is linked into the program.
list_crates() {
    require cargo jq
    # Edges of kind `normal`: no build scripts, no tests, and no macros, which run in the compiler.
    # shellcheck disable=SC2154 # set by appliance/lib/common.sh
    if ! cargo tree --locked --package failback-cli --edges normal,no-proc-macro --target "$rust_target" \
        --prefix none --no-dedupe --format $'{p}\t{l}' >"$1/tree" 2>"$1/words" ||
        ! cargo metadata --locked --format-version 1 --filter-platform "$rust_target" >"$1/metadata" 2>>"$1/words"; then
        die "cargo cannot tell what failback is made of: $(<"$1/words")"
    fi
    jq -r '.packages[] | select(.source != null) | ["\(.name) v\(.version)", (.manifest_path | rtrimstr("/Cargo.toml"))] | @tsv' \
        "$1/metadata" | LC_ALL=C sort >"$1/directories"
    # Crates of the workspace have a path behind their version, and no directory in that list.
    LC_ALL=C sort -u "$1/tree" | LC_ALL=C join -t $'\t' - "$1/directories" | sed 's/ v/\t/' >"$1/crates"
    [[ -s $1/crates ]] || die "cargo names nothing that failback is made of: this source tree is not complete"
}

# Prints the licence of the program as a whole, as an SPDX expression, from the list that list_crates left in $1.
licence_expression() {
    {
        # failback itself and Rust's own library; and the C library.
        printf '%s\n' 'MIT OR Apache-2.0' 'LGPL-2.1-or-later'
        cut -f3 "$1/crates"
    } | awk '
        # Alternatives in one order, so that the same ones are the same text.
        / OR / {
            n = split($0, part, / OR /)
            for (i = 2; i <= n; i++)
                for (j = i; j > 1 && part[j] < part[j - 1]; j--) { t = part[j]; part[j] = part[j - 1]; part[j - 1] = t }
            text = part[1]
            for (i = 2; i <= n; i++) text = text " OR " part[i]
            print "(" text ")"
            next
        }
        { gsub(/ AND /, "\n"); print }' | sort -u | sed ':a; N; $!ba; s/\n/ AND /g'
}

# Prints the notices of all libraries in that list, each text once.
licence_notices() {
    local name version licence directory file sum found
    local -A users=() texts=()
    cat <<'END'
failback is linked statically. Besides failback itself, under MIT OR Apache-2.0, the program holds Rust's standard library, under
MIT OR Apache-2.0; the GNU C library, under LGPL-2.1-or-later, whose source your distribution has and against which failback can be linked
anew from its own source; and these libraries:

END
    while IFS=$'\t' read -r name version licence directory; do
        printf '%s %s: %s\n' "$name" "$version" "$licence"
        found=no
        while IFS= read -r file; do
            sum=$(sha256sum -- "$file")
            users[${sum%% *}]+="$name $version (${file#"$directory/"}), "
            texts[${sum%% *}]=$file found=yes
        done < <(find "$directory" -maxdepth 2 -type f \
            -iregex '.*/\(licen[cs]e\|notice\|copyright\|unlicense\)[^/]*' | sort)
        [[ $found == yes ]] || die "$name $version comes without the text of its licence: add it to what licence_notices looks for"
    done <"$1/crates"
    while IFS= read -r sum; do
        printf '\n%s\n%s\n\n' "${users[$sum]%, }" '--------------------------------------------------------------------------------'
        cat -- "${texts[$sum]}"
    done < <(for sum in "${!users[@]}"; do printf '%s\t%s\n' "${users[$sum]}" "$sum"; done | sort | cut -f2)
}
