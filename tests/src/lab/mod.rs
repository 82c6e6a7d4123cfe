//! What the tests of the whole program stand on: the program itself, disks to work on, and the machine's devices.
//!
//! Everything here panics where something is not as it should be: that fails the test.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(
    clippy::must_use_candidate,
    reason = "helpers of tests are called for what they do as much as for what they return"
)]

mod appliance;
mod content;
mod device;
mod dice;
mod fused;
mod guarded;
pub mod guest;
mod hung;
mod place;
mod port;
pub mod power;
mod program;
mod proxy;
mod running;
mod uml;
mod wire;

pub use appliance::{static_program, workspace};
pub use content::{changed, hash, noise};
pub use device::{
    Loop, Mount, Swap, has_devices, has_fuse, has_programs, is_alone_inside, is_inside, is_installed, lone, run_inside,
    sectors_written, skipped, tool, try_tool,
};
pub use dice::Dice;
pub use fused::Fused;
pub use guarded::{Guarded, guarding};
pub use hung::Hung;
pub use place::{Place, Unchanged, files_below, hash_of, root_of_file};
pub use port::Port;
pub use program::{Program, Run, program};
pub use proxy::{Fault, Proxy, Way, What};
pub use running::Running;
pub use uml::{Guest, GuestRun, Uml, has_uml, recovered};
pub use wire::{At, Wire, has_wires};

/// A call of the program: `failback!("sign", disk, "-o", signature)`. Nothing runs before it is asked for its outcome.
#[macro_export]
macro_rules! failback {
    ($($argument:expr),* $(,)?) => {
        $crate::lab::Program::new()$(.arg(&$argument))*
    };
}
