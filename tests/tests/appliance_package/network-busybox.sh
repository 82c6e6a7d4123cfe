#!/usr/bin/env bash
# Addresses on a machine that has busybox only.
# shellcheck source=tests/tests/appliance_package/network.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/network.sh"

ip addr add 192.0.2.1/24 dev server
cat >/run/udhcpd.conf <<'END'
start 192.0.2.50
end 192.0.2.60
interface server
lease_file /run/leases
option subnet 255.255.255.0
option router 192.0.2.1
option dns 192.0.2.53 192.0.2.54
END
touch /run/leases
ip link set eth0 up
busybox udhcpd -f /run/udhcpd.conf 2>/run/udhcpd.log &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT

wants 0 show
said 'eth0'
said 'no address'

# A lease: address, gateway, DNS; and the client stays.
wants 0 dhcp eth0
address=$(ip -o -4 addr show dev eth0 | awk '{ print $4 }')
[[ $address == 192.0.2.[56][0-9]/24 ]] || fail "eth0 has '$address'"
wants 0 show
said "up       $address"
said 'gateway: 192.0.2.1   DNS: 192.0.2.53 192.0.2.54'
# It writes its number anew when it has gone to the background, which is a moment after whoever started it goes on.
for _ in {1..50}; do
    client=$(</run/failback-dhcp.eth0.pid)
    ! kill -0 "$client" 2>/dev/null || break
    sleep 0.1
done
kill -0 "$client" || fail 'the DHCP client is gone'

# An address of its own ends the lease's.
wants 0 static eth0 198.51.100.7/24 198.51.100.1 198.51.100.53
has 198.51.100.7/24
for _ in {1..50}; do
    [[ -e /proc/$client/exe ]] || break
    sleep 0.1
done
[[ ! -e /proc/$client/exe ]] || fail 'the DHCP client goes on'
wants 0 show
said 'gateway: 198.51.100.1   DNS: 198.51.100.53'

# The other kind of address goes beside it.
wants 0 static eth0 2001:db8::5/64 2001:db8::1
has 198.51.100.7/24 2001:db8::5/64

# What is refused changes nothing.
while read -r words; do
    IFS=/ read -r arguments sentence <<<"${words/ => //}"
    # shellcheck disable=SC2086 # several arguments
    wants 3 static ${arguments//+//}
    said "$sentence"
    has 198.51.100.7/24 2001:db8::5/64
done <<'END'
eth9 198.51.100.8+24 => there is no network card eth9
eth0 198.51.100.8 => is no address with a prefix
eth0 198.51.100.256+24 => is no address with a prefix
eth0 198.51.100.08+24 => is no address with a prefix
eth0 198.51.100.8+33 => is no address with a prefix
eth0 198.51.100+24 => is no address with a prefix
eth0 2001:db8::zz+64 => is no address with a prefix
eth0 198.51.100.8+24 198.51.200.1 => is not in the network of
eth0 198.51.100.8+24 2001:db8::1 => are not of one kind
eth0 198.51.100.8+24 198.51.100.1 resolver => is no address of a DNS server
END
wants 2 static eth0
wants 2 dhcp
wants 2 --help-me
wants 2 bound
wants 0 --help
said 'usage: network'

# The menu asks again after what it does not understand, and ends where its input does.
number=$(ip -o link show | sed -n 's/^[0-9]*: \([^:@]*\)[:@].*/\1/p' | grep -vx lo | grep -nx eth0 | cut -d: -f1)
printf '%s\n' nonsense 77 "$number" 198.51.100.9/33 '' '' "$number" 198.51.100.9/24 198.51.100.1 '' >/run/answers
PATH=$MENU_PATH sh "$menu" </run/answers >"$place/said" 2>&1 || fail 'the menu failed'
said 'nonsense is no number of a card'
said '77 is no number of a card'
said '198.51.100.9/33 is no address with a prefix'
said 'network: eth0: 198.51.100.9/24'
has 198.51.100.9/24 2001:db8::5/64

# Nobody answers.
kill "$server"
wants 1 dhcp eth0
said 'no DHCP server has answered on eth0 yet'
