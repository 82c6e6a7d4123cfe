#!/usr/bin/env bash
# Addresses on a machine that has NetworkManager: here a program that remembers what it is told.
# shellcheck source=tests/tests/appliance_package/network.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/network.sh"

export NM_LOG=$place/log
# NetworkManager was told exactly the lines on stdin since the last time.
told() {
    diff -u - "$NM_LOG" >"$place/said" || fail 'NetworkManager was told something else'
    rm -- "$NM_LOG"
}

wants 0 static eth0 192.0.2.7/24 192.0.2.1 192.0.2.53 2001:db8::53 192.0.2.54
told <<'END'
connection|add|type|ethernet|ifname|eth0|con-name|eth0|
connection|modify|eth0|connection.autoconnect|yes|ipv4.method|manual|ipv4.addresses|192.0.2.7/24|ipv4.gateway|192.0.2.1|ipv4.dns|192.0.2.53,192.0.2.54|ipv6.dns|2001:db8::53|
connection|up|eth0|ifname|eth0|
END

wants 0 static eth0 2001:db8::7/64
told <<'END'
connection|modify|eth0|connection.autoconnect|yes|ipv6.method|manual|ipv6.addresses|2001:db8::7/64|ipv6.gateway||ipv6.dns||ipv4.dns||
connection|up|eth0|ifname|eth0|
END

wants 0 dhcp eth0
told <<'END'
connection|modify|eth0|connection.autoconnect|yes|ipv4.method|auto|ipv4.addresses||ipv4.gateway||ipv4.dns||ipv6.method|auto|ipv6.addresses||ipv6.gateway||ipv6.dns||
connection|up|eth0|ifname|eth0|
END

wants 3 static eth0 192.0.2.7
said 'is no address with a prefix'
export NM_STATE='not running'
wants 3 dhcp eth0
said 'systemctl start NetworkManager'
[[ ! -e $NM_LOG ]] || fail 'NetworkManager was told something'
