//! What becomes of the network's boot arguments.

use crate::prepared::{GIB, Machine};

const A: &str = "naa.6000c2990000000000000000000000aa";
const END: &str = "--onboot=yes --activate --hostname=failback";

fn with(arguments: &str) -> Machine {
    Machine::new(10).unwrap().disk("sda", 20 * GIB, Some(A)).with_key(arguments)
}

#[track_caller]
fn line(machine: Machine) -> String {
    let answers = machine.chosen().answers;
    answers.lines().find(|line| line.starts_with("network ")).unwrap().to_owned()
}

#[test]
fn addresses_become_commands() {
    let Some(_) = Machine::new(10) else { return };
    for (arguments, expected) in [
        ("", format!("network --bootproto=dhcp --device=ens192 {END}")),
        ("failback.ip=dhcp", format!("network --bootproto=dhcp --device=ens192 {END}")),
        (
            "failback.ip=10.1.2.3/8",
            format!("network --bootproto=static --ip=10.1.2.3 --netmask=255.0.0.0 --device=ens192 {END}"),
        ),
        (
            "failback.ip=192.168.1.20/25,192.168.1.1,192.168.1.2,2001:db8::53",
            format!(
                "network --bootproto=static --ip=192.168.1.20 --netmask=255.255.255.128 --gateway=192.168.1.1 --device=ens192 {END} --nameserver=192.168.1.2,2001:db8::53"
            ),
        ),
        (
            "failback.ip=10.0.0.1/32",
            format!("network --bootproto=static --ip=10.0.0.1 --netmask=255.255.255.255 --device=ens192 {END}"),
        ),
        (
            "failback.ip=10.0.0.1/24,,10.0.0.2",
            format!(
                "network --bootproto=static --ip=10.0.0.1 --netmask=255.255.255.0 --device=ens192 {END} --nameserver=10.0.0.2"
            ),
        ),
        (
            "failback.ip=2001:db8::5/64,fe80::1",
            format!("network --noipv4 --ipv6=2001:db8::5/64 --ipv6gateway=fe80::1 --device=ens192 {END}"),
        ),
    ] {
        assert_eq!(line(with(arguments)), expected, "{arguments}");
    }
    assert!(line(with("failback.hostname=target-1.example.org")).contains(" --hostname=target-1.example.org"));
}

#[test]
fn the_interface_is_named_or_clear() {
    let Some(_) = Machine::new(10) else { return };
    let two = |arguments| with(arguments).interface("ens224", "00:50:56:00:00:02");
    assert!(line(two("")).contains(" --device=link "), "the first with a link");
    assert!(line(two("failback.nic=ens224 failback.ip=10.0.0.1/8")).contains(" --device=ens224 "));
    let by_address = line(two("failback.nic=00:50:56:00:00:02"));
    assert!(by_address.contains(" --device=ens224 ") && by_address.ends_with(" --bindto=mac"), "{by_address}");
    two("failback.ip=10.0.0.1/8").refused("there are several network interfaces (ens192, ens224)");
    two("failback.nic=eth0")
        .refused("there is no network interface eth0 that failback.nic= names; there are ens192, ens224");
    let same = with("failback.nic=00:50:56:00:00:01").interface("ens224", "00:50:56:00:00:01");
    same.refused("several network interfaces have the address");
    // A loopback is no interface.
    let machine = with("");
    machine.write("sys/class/net/lo/address", "00:00:00:00:00:00\n");
    std::fs::remove_dir_all(machine.path("sys/class/net/ens192")).unwrap();
    machine.refused("there is no network interface");
}

#[test]
fn addresses_that_are_none_are_refused() {
    let Some(_) = Machine::new(10) else { return };
    for ip in [
        "10.0.0.1",
        "10.0.0.1/",
        "10.0.0/24",
        "10.0.0.256/24",
        "10.0.0.1.2/24",
        "a.b.c.d/24",
        "2001:db8:::5/64",
        "2001:db8::5::1/64",
        "1:2:3:4:5:6:7/64",
        "1:2:3:4:5:6:7:8:9/64",
        "12345::/64",
        ":1::2/64",
        "1::2:/64",
        "static",
    ] {
        with(&format!("failback.ip={ip}")).refused(&format!("failback.ip={ip} is not understood"));
    }
    for ip in ["10.0.0.1/0", "10.0.0.1/33", "2001:db8::5/129", "2001:db8::5/0"] {
        with(&format!("failback.ip={ip}")).refused("the prefix of");
    }
    with("failback.ip=10.0.0.1/8,10.0.0").refused("the gateway 10.0.0 in failback.ip= is no address of IPv4");
    with("failback.ip=10.0.0.1/8,fe80::1").refused("the gateway fe80::1 in failback.ip= is no address of IPv4");
    with("failback.ip=10.0.0.1/8,10.0.0.2,dns.example")
        .refused("the name server dns.example in failback.ip= is no address");
    for host in ["-a", "a_b", "a.", "a-", "a..b", "a;b"] {
        with(&format!("failback.hostname={host}")).refused("is no name for a host");
    }
}
