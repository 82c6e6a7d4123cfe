# shellcheck shell=dash
# How a guest reports to its test, for what runs in it: also for the services of a guest that has gone on to a real system.

# result NAME COMMAND...: runs a command and reports its exit code and what it printed.
result() {
    name=$1
    shift
    code=0
    # So that it is heard.
    echo "guest: $name"
    "$@" >/tmp/.out 2>/tmp/.err </dev/null || code=$?
    sed "s/^/$name: /" /tmp/.err
    echo "RESULT $name $code $(base64 -w 0 /tmp/.out)- $(base64 -w 0 /tmp/.err)-" >/dev/ttyS1
}
