# shellcheck shell=bash
# The network as boot arguments want it, in words of the kickstart.
# shellcheck disable=SC2154 # `argument` is filled by arguments.sh.

# Whether this is an IPv4 address in four numbers.
is_ipv4() {
    local part parts
    [[ $1 =~ ^([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})$ ]] || return 1
    IFS=. read -ra parts <<<"$1"
    for part in "${parts[@]}"; do
        ((10#$part <= 255)) || return 1
    done
}

# Whether this is an IPv6 address (RFC 4291, section 2.2), without dots or a zone.
is_ipv6() {
    local text=$1 groups
    [[ $text =~ ^[0-9a-fA-F:]+$ && $text != *:::* && $text != *::*::* ]] || return 1
    [[ $text != :[!:]* && $text != *[!:]: ]] || return 1
    [[ ! $text =~ [0-9a-fA-F]{5} ]] || return 1
    IFS=: read -ra groups <<<"${text/::/:0:}"
    if [[ $text == *::* ]]; then ((${#groups[@]} <= 9)); else ((${#groups[@]} == 8)); fi
}

# Prints the mask of an IPv4 prefix of $1 bits.
netmask() {
    local bits=$((0xffffffff << (32 - $1) & 0xffffffff))
    printf '%d.%d.%d.%d' $((bits >> 24)) $((bits >> 16 & 255)) $((bits >> 8 & 255)) $((bits & 255))
}

# Prints the interfaces that have a device behind them.
interfaces() {
    local entry
    for entry in /sys/class/net/*; do
        [[ ! -e $entry/device ]] || printf '%s\n' "${entry##*/}"
    done
}

# Sets `nic` to what --device is to be: the named interface, or the only one, or for an address from DHCP the first that has a link.
choose_interface() {
    local wanted=${argument[failback.nic]:-} all name
    nic=''
    all=$(interfaces)
    [[ -n $all ]] || refuse 'there is no network interface; attach one, and restart.'
    if [[ -z $wanted ]]; then
        if [[ $all != *$'\n'* ]]; then
            nic=$all
        elif [[ ${argument[failback.ip]:-dhcp} == dhcp ]]; then
            nic='link'
        else
            refuse "there are several network interfaces (${all//$'\n'/, }), and none is named for the address; add failback.nic=NAME or failback.nic=MAC."
        fi
        return
    fi
    for name in $all; do
        if [[ $name == "$wanted" || $(value "/sys/class/net/$name/address") == "${wanted,,}" ]]; then
            [[ -z $nic ]] || refuse "several network interfaces have the address $wanted; name one with failback.nic=NAME."
            nic=$name
        fi
    done
    [[ -n $nic ]] || refuse "there is no network interface $wanted that failback.nic= names; there are ${all//$'\n'/, }."
}

# Sets `network_line` to the network command of the kickstart.
read_network() {
    local ip=${argument[failback.ip]:-dhcp} host=${argument[failback.hostname]:-failback} fields address prefix gateway servers server
    local names family wrong='write failback.ip=dhcp or failback.ip=ADDRESS/PREFIX[,GATEWAY[,DNS…]].'
    is_host_name "$host" ||
        refuse "failback.hostname=$host is no name for a host; use letters, digits and hyphens, and points between its parts, 63 at most."
    choose_interface
    network_line="--device=$nic --onboot=yes --activate --hostname=$host"
    [[ ${argument[failback.nic]:-} != *:* ]] || network_line+=' --bindto=mac'
    if [[ $ip == dhcp ]]; then
        network_line="network --bootproto=dhcp $network_line"
        return
    fi
    IFS=, read -ra fields <<<"$ip"
    address=${fields[0]%/*} prefix=${fields[0]##*/} gateway=${fields[1]:-} servers=("${fields[@]:2}")
    if is_ipv4 "$address"; then family=4; elif is_ipv6 "$address"; then family=6; else family=; fi
    [[ -n $family && ${fields[0]} == */* && $prefix =~ ^[0-9]{1,3}$ ]] || refuse "failback.ip=$ip is not understood; $wrong"
    prefix=$((10#$prefix))
    ((prefix >= 1 && prefix <= (family == 4 ? 32 : 128))) || refuse "the prefix of failback.ip=$ip is out of range; $wrong"
    [[ -z $gateway ]] || "is_ipv$family" "$gateway" || refuse "the gateway $gateway in failback.ip= is no address of IPv$family; $wrong"
    for server in "${servers[@]}"; do
        is_ipv4 "$server" || is_ipv6 "$server" || refuse "the name server $server in failback.ip= is no address; $wrong"
    done
    names=$(IFS=, && printf '%s' "${servers[*]}")
    if ((family == 4)); then
        network_line="network --bootproto=static --ip=$address --netmask=$(netmask "$prefix")${gateway:+ --gateway=$gateway} $network_line"
    else
        network_line="network --noipv4 --ipv6=$address/$prefix${gateway:+ --ipv6gateway=$gateway} $network_line"
    fi
    network_line+=${names:+ --nameserver=$names}
}
