# shellcheck shell=bash
# Steps of a test run: each has a heading, its seconds and its place in the totals; one that fails hides no other.

passed=0
failed=0
skipped=0

# Runs a command as the step named $1, which counts as one check.
check() {
    local name=$1 code=0
    shift
    timed "$name" "$@" || code=$?
    if ((code == 0)); then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

# A check that cannot run here and now, and why.
skip_check() {
    heading "$1"
    note "skipped: $2"
    skipped=$((skipped + 1))
}

# Runs a test runner as the step named $1; what counts are its own numbers.
check_tests() {
    local name=$1 code=0 log p f s
    log=$(mktemp)
    shift
    timed "$name" "$@" > >(tee "$log") 2>&1 || code=$?
    wait $! # for tee, so that the log is whole
    read -r p f s < <(runner_totals <"$log")
    rm -f -- "$log"
    # A runner that failed without a failed test did not come to its tests, for instance for want of a build.
    if ((code != 0 && f == 0)); then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# Sums up what cargo test and nextest say in their closing lines, as "passed failed skipped".
runner_totals() {
    awk '
        function number_before(word,    i) {
            for (i = 2; i <= NF; i++) if ($i == word || $i == word ";" || $i == word ",") return $(i - 1)
            return 0
        }
        /^ *Summary \[/ {
            match($0, /[0-9]+ timed out/)
            late = RSTART ? substr($0, RSTART, RLENGTH) + 0 : 0
            p += number_before("passed"); s += number_before("skipped")
            f += number_before("failed") + late
        }
        /^test result: / { p += number_before("passed"); f += number_before("failed"); s += number_before("ignored") }
        END { print p + 0, f + 0, s + 0 }'
}

timed() {
    local name=$1 start=$EPOCHREALTIME code=0
    shift
    heading "$name"
    "$@" || code=$?
    awk -v name="$name" -v start="$start" -v end="$EPOCHREALTIME" -v code="$code" \
        'BEGIN { printf "-- %s: %s, %.1f s\n", name, code ? "FAILED" : "ok", end - start }'
    return "$code"
}

# Prints the totals as the last line; the exit code says whether anything failed.
totals() {
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    ((failed == 0))
}
