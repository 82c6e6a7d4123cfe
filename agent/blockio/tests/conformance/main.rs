//! One suite for every kind of device: what `device.rs` promises, checked on real files, on loop devices with both sizes
//! of logical block, with both engines and every use of the page cache, and on the simulated disk.

mod backends;
mod faults;
mod refusals;
mod suite;

use failback_blockio::{Caching, Engine};

const ENGINES: [Engine; 2] = [Engine::IoUring, Engine::Blocking];
const CACHINGS: [Caching; 3] = [Caching::Probe, Caching::Direct, Caching::Cached];
const SIZES: [u64; 7] = [0, 1, 511, 512, 4095, 4097, (1 << 20) + 13];
