//! Prints what a disk or image says of its free space, how long it took to find out, and how much memory.
//!
//! ```text
//! cargo run --release -p failback-volumes --example map_of -- IMAGE
//! ```

use failback_blockio::{FileDevice, Options};
use failback_volumes::{DeviceVolume, file_systems};
use std::{env, error::Error, fs, fs::File, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("the name of an image is needed")?;
    let device = FileDevice::new(File::open(&path)?.into(), &path, Options::default())?;
    let begin = Instant::now();
    let found = file_systems(&DeviceVolume::new(&device)?);
    let seconds = begin.elapsed().as_secs_f64();
    for system in &found {
        println!("kind {:?}", system.kind);
        println!("state {:?}", system.state);
        println!("checked {}", system.checked);
        match &system.map {
            Ok(map) => println!("free {} bytes in {} extents", map.bytes(), map.extents().len()),
            Err(why) => println!("free 0 bytes: every block, because {why}"),
        }
        for remark in &system.remarks {
            println!("remark {remark}");
        }
    }
    let counters = device.counters();
    println!("read {} bytes in {} reads", counters.bytes_read, counters.reads);
    println!("seconds {seconds:.3}");
    let status = fs::read_to_string("/proc/self/status")?;
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the kernel does not tell the peak")?;
    println!("peak {}", peak.trim());
    Ok(())
}
