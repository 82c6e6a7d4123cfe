//! Network cards whose cable comes late, or never.

use crate::iso::live_iso;
use crate::machine::Machine;
use failback_tests::lab::guest::{Firmware, Medium};

/// Two cards, of which the second gets its cable while the machine waits for one; then it is the one that gets the address.
#[test]
fn slow_the_card_with_a_cable_is_waited_for() {
    let Some(iso) = live_iso() else { return };
    let arguments = "failback.ip=dhcp failback.then=poweroff";
    let mut machine = Machine::new(&iso, arguments, Firmware::Bios, Medium::Cd).cards(2).start();
    for card in 0..2 {
        machine.cable(card, false);
    }
    machine.guest.await_printed("network: waiting for a cable at eth0 eth1");
    machine.cable(1, true);
    machine.guest.await_printed("network: eth1 asks for an address");
    let results = machine.guest.await_end();
    assert!(!results.log().contains("shows no cable"), "{}", results.log());
}

/// Nobody plugs one in: that is said, and the machine goes on with the address that it was given.
#[test]
fn slow_a_card_without_a_cable_is_told_of() {
    let Some(iso) = live_iso() else { return };
    let arguments = "failback.ip=192.0.2.7/24";
    let mut machine = Machine::new(&iso, arguments, Firmware::Bios, Medium::Cd).start();
    machine.cable(0, false);
    machine.guest.await_printed("network: eth0 has 192.0.2.7/24");
    machine.guest.await_printed("ready after");
    machine.guest.await_printed("network: eth0 shows no cable: plug it in");
    let _ = machine.guest.cut_power();
}
