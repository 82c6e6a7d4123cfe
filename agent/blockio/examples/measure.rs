//! Measures what the defaults of this crate and of its callers are chosen from: queue depth, transfer size, huge pages,
//! the use of the page cache, and both engines.
//!
//! ```text
//! cargo run --release --example measure -- read  PATH     reads all of PATH in many ways, cold and warm (needs root)
//! cargo run --release --example measure -- write PATH     OVERWRITES PATH in many ways
//! cargo run --release --example measure -- probe PATH     what asking the page cache costs
//! ```
//!
//! "Cold" means after dropping the page cache, which flatters direct reads a little; see each figure as relative.

use failback_blockio::{Buffer, Caching, Counters, Device, Engine, FileDevice, Operation, Options, Pool};
use failback_units::{ByteCount, ByteOffset, HumanBytes};
use std::{
    error::Error,
    fs::{self, OpenOptions},
    process::ExitCode,
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How one run reads or writes.
#[derive(Clone, Copy)]
struct Way {
    options: Options,
    depth: usize,
    transfer: usize,
    huge: bool,
}

impl Default for Way {
    fn default() -> Self {
        let options = Options { engine: Engine::IoUring, caching: Caching::Direct };
        Self { options, depth: 16, transfer: 1 << 20, huge: true }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["read", path] => reads(path),
        ["write", path] => writes(path),
        ["probe", path] => probes(path),
        _ => Err("usage: measure read|write|probe PATH".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn open(path: &str, write: bool, options: Options) -> Outcome<FileDevice> {
    Ok(FileDevice::new(OpenOptions::new().read(true).write(write).open(path)?.into(), path, options)?)
}

fn reads(path: &str) -> Outcome<()> {
    let base = Way::default();
    let caching = |caching| Options { caching, ..base.options };
    let blocking = |caching| Options { engine: Engine::Blocking, caching };
    heading(path, "read");
    for warm in [false, true] {
        for options in [caching(Caching::Direct), caching(Caching::Cached), caching(Caching::Probe)] {
            read_once(path, warm, Way { options, ..base })?;
        }
        for options in [blocking(Caching::Direct), blocking(Caching::Cached)] {
            read_once(path, warm, Way { options, ..base })?;
        }
    }
    for huge in [false, true] {
        for transfer in [64 << 10, 256 << 10, 512 << 10, 1 << 20] {
            for depth in [1, 4, 16, 32, 128] {
                read_once(path, false, Way { depth, transfer, huge, ..base })?;
            }
        }
    }
    for depth in [1, 4, 8, 16, 32] {
        read_once(path, false, Way { options: blocking(Caching::Direct), depth, ..base })?;
        read_once(path, true, Way { options: blocking(Caching::Cached), depth, ..base })?;
        read_once(path, true, Way { options: caching(Caching::Cached), depth, ..base })?;
    }
    Ok(())
}

fn read_once(path: &str, warm: bool, way: Way) -> Outcome<()> {
    if warm {
        warm_up(path)?;
    } else {
        drop_caches()?;
    }
    let device = open(path, false, way.options)?;
    let pool = pool(way)?;
    let started = Started::now();
    transfer(&device, &pool, way, in_order(&device, way), |at, into| Operation::Read { at, into })?;
    started.print(if warm { "warm" } else { "cold" }, way, device.counters());
    Ok(())
}

fn writes(path: &str) -> Outcome<()> {
    let base = Way::default();
    heading(path, "write");
    for transfer_bytes in [64 << 10, 256 << 10, 1 << 20] {
        for depth in [1, 8, 32, 64, 128] {
            for engine in [Engine::IoUring, Engine::Blocking] {
                let options = Options { engine, ..base.options };
                let way = Way { options, transfer: transfer_bytes, depth, ..base };
                let device = open(path, true, options)?;
                let pool = pool(way)?;
                let started = Started::now();
                let places = at_random(&device, way);
                transfer(&device, &pool, way, places, |at, from| Operation::Write { at, from })?;
                failback_blockio::run(&device, Operation::Flush)?;
                started.print("random", way, device.counters());
            }
        }
    }
    Ok(())
}

/// The cost of asking: reads of nothing but cached pages with and without the question.
fn probes(path: &str) -> Outcome<()> {
    heading(path, "read");
    for transfer in [4 << 10, 64 << 10, 1 << 20] {
        for caching in [Caching::Cached, Caching::Probe, Caching::Cached, Caching::Probe] {
            let options = Options { engine: Engine::IoUring, caching };
            read_once(path, true, Way { options, transfer, ..Way::default() })?;
        }
    }
    for transfer in [4 << 10, 64 << 10, 1 << 20] {
        for caching in [Caching::Direct, Caching::Probe, Caching::Direct, Caching::Probe] {
            let options = Options { engine: Engine::IoUring, caching };
            read_once(path, false, Way { options, transfer, depth: 64, ..Way::default() })?;
        }
    }
    Ok(())
}

fn pool(way: Way) -> Outcome<Pool> {
    let pool = if way.huge { Pool::new } else { Pool::on_small_pages }(way.depth, way.transfer)?;
    // The first touch is not what is measured.
    let mut buffers: Vec<Buffer> = (0..way.depth).map(|_| pool.take()).collect();
    for buffer in &mut buffers {
        buffer.fill(0x5A);
    }
    Ok(pool)
}

fn in_order(device: &FileDevice, way: Way) -> Vec<u64> {
    (0..device.size().get()).step_by(way.transfer).collect()
}

/// A quarter of the device, in no order.
fn at_random(device: &FileDevice, way: Way) -> Vec<u64> {
    let places = in_order(device, way);
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        usize::try_from(state >> 33).unwrap_or(0)
    };
    (0..places.len() / 4).map(|_| places[next() % places.len()]).collect()
}

fn transfer(
    device: &FileDevice,
    pool: &Pool,
    way: Way,
    places: Vec<u64>,
    operation: impl Fn(ByteOffset, Buffer) -> Operation,
) -> Outcome<()> {
    let mut queue = device.queue(way.depth)?;
    let mut places = places.into_iter().peekable();
    while places.peek().is_some() || queue.in_flight() > 0 {
        if queue.in_flight() < queue.depth()
            && let Some(place) = places.next()
        {
            let at = ByteOffset::new(place).ok_or("too far")?;
            let mut buffer = pool.take();
            let left = device.size().saturating_sub(ByteCount::new(place).ok_or("too far")?);
            buffer.truncate(left.to_usize().unwrap_or(usize::MAX));
            queue.submit(place, operation(at, buffer));
        } else if let Some(completion) = queue.wait() {
            completion.result?;
        }
    }
    Ok(())
}

fn drop_caches() -> Outcome<()> {
    nix::unistd::sync();
    Ok(fs::write("/proc/sys/vm/drop_caches", "3").map_err(|error| format!("cannot drop caches: {error}"))?)
}

fn warm_up(path: &str) -> Outcome<()> {
    let options = Options { engine: Engine::Blocking, caching: Caching::Cached };
    let device = open(path, false, options)?;
    let way = Way { options, ..Way::default() };
    transfer(&device, &pool(way)?, way, in_order(&device, way), |at, into| Operation::Read { at, into })
}

fn heading(path: &str, what: &str) {
    println!("{what} {path}");
    println!(
        "{:<7} {:<8} {:<7} {:>9} {:>6} {:>6} {:>9} {:>8} {:>8}",
        "state", "engine", "caching", "transfer", "depth", "pages", "seconds", "GB/s", "CPU s"
    );
}

/// When a run began, and how much processor time was used until then.
struct Started(Instant, Duration);

impl Started {
    fn now() -> Self {
        Self(Instant::now(), processor_time())
    }

    #[expect(clippy::cast_precision_loss, reason = "figures to be looked at")]
    fn print(&self, state: &str, way: Way, counters: Counters) {
        let (elapsed, used) = (self.0.elapsed(), processor_time().saturating_sub(self.1));
        let bytes = counters.bytes_read + counters.bytes_written;
        println!(
            "{state:<7} {:<8} {:<7} {:>9} {:>6} {:>6} {:>9.3} {:>8.2} {:>8.2}",
            format!("{:?}", way.options.engine),
            format!("{:?}", way.options.caching),
            HumanBytes(ByteCount::of_memory(way.transfer).get()).to_string(),
            way.depth,
            if way.huge { "huge" } else { "small" },
            elapsed.as_secs_f64(),
            bytes as f64 / 1e9 / elapsed.as_secs_f64(),
            used.as_secs_f64(),
        );
    }
}

/// User and system time of this process, its threads included.
fn processor_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure, which is valid as zeroes too.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |value: libc::timeval| {
        Duration::from_secs(u64::try_from(value.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(value.tv_usec).unwrap_or(0))
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}
