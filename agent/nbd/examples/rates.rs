//! Measures the server with a client of its own: random small reads one at a time and several at a time, and a long scan.
//!
//! `cargo run --release -p failback-nbd --example rates [IMAGE]`; without an image, of 256 MiB in memory.

use failback_blockio::{Buffer, Device, Engine, FileDevice, Operation, Options};
use failback_nbd::{Export, Limits, SessionError, serve_stream};
use failback_units::ByteOffset;
use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(2);
type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    for engine in [Engine::Auto, Engine::Blocking] {
        let file = match std::env::args_os().nth(1) {
            Some(path) => File::open(path)?,
            None => in_memory()?,
        };
        let device = FileDevice::new(file.into(), "measured", Options { engine, ..Options::default() })?;
        println!("{}", device.engine());
        println!("  the device itself, 4 KiB reads, depth 1: {:.0} per second", alone(&device)?);
        let export = Export::read_only("measured", &device)?;
        for (name, length, depth) in [
            ("4 KiB random reads", 4096, 1),
            ("4 KiB random reads", 4096, 16),
            ("64 KiB random reads", 65_536, 1),
            ("1 MiB random reads", 1 << 20, 4),
        ] {
            let rate = through(&export, device.size().get(), length, depth)?;
            let megabytes = rate * f64::from(length) / 1e6;
            println!("  {name}, depth {depth}: {rate:.0} per second, {megabytes:.0} MB/s");
        }
    }
    Ok(())
}

fn in_memory() -> Outcome<File> {
    let mut file = tempfile::tempfile_in("/dev/shm")?;
    let block: Vec<u8> =
        (0..1 << 20).map(|byte: u32| byte.to_le_bytes()[usize::from(byte.is_multiple_of(3))]).collect();
    for _ in 0..256 {
        file.write_all(&block)?;
    }
    Ok(file)
}

/// Offsets that are multiples of `length`, the same in every run.
fn offsets(size: u64, length: u64) -> impl Iterator<Item = u64> {
    let mut state = 1_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % (size / length) * length
    })
}

fn alone(device: &dyn Device) -> Outcome<f64> {
    let mut queue = device.queue(1)?;
    let (start, mut count, mut into) = (Instant::now(), 0.0, Buffer::zeroed(4096));
    for at in offsets(device.size().get(), 4096) {
        queue.submit(0, Operation::Read { at: ByteOffset::new(at).ok_or("no offset")?, into });
        let done = queue.wait().ok_or("no completion")?;
        done.result?;
        into = done.buffer.ok_or("no buffer")?;
        count += 1.0;
        if start.elapsed() > SECONDS {
            break;
        }
    }
    Ok(count / start.elapsed().as_secs_f64())
}

/// Reads per second.
fn through(export: &Export<'_>, size: u64, length: u32, depth: usize) -> Outcome<f64> {
    let (client, server) = UnixStream::pair()?;
    thread::scope(|scope| {
        let serving = scope.spawn(move || serve_stream(&server, export, &Limits::default()));
        let rate = ask(client, size, length, depth);
        match serving.join().map_err(|_| "the server panicked")? {
            // The client leaves with its last requests unanswered.
            Ok(()) | Err(SessionError::Gone) => rate,
            Err(error) => Err(error.into()),
        }
    })
}

fn ask(mut socket: UnixStream, size: u64, length: u32, depth: usize) -> Outcome<f64> {
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting)?;
    let flags = 3_u32.to_be_bytes();
    let structured = [&b"IHAVEOPT"[..], &8_u32.to_be_bytes(), &0_u32.to_be_bytes()].concat();
    socket.write_all(&[&flags[..], &structured].concat())?;
    let mut acknowledged = [0; 20];
    socket.read_exact(&mut acknowledged)?;
    let export_name = [&b"IHAVEOPT"[..], &1_u32.to_be_bytes(), &0_u32.to_be_bytes()].concat();
    socket.write_all(&export_name)?;
    let mut export = [0; 10];
    socket.read_exact(&mut export)?;
    let mut offsets = offsets(size, u64::from(length));
    let mut request = move |socket: &mut UnixStream| -> Outcome<()> {
        let at = offsets.next().ok_or("no offset")?;
        let mut request = [0; 28];
        request[..4].copy_from_slice(&0x2560_9513_u32.to_be_bytes());
        request[16..24].copy_from_slice(&at.to_be_bytes());
        request[24..].copy_from_slice(&length.to_be_bytes());
        Ok(socket.write_all(&request)?)
    };
    for _ in 0..depth {
        request(&mut socket)?;
    }
    let mut content = vec![0; 8 + usize::try_from(length)?];
    let (start, mut count) = (Instant::now(), 0.0);
    loop {
        let mut chunk = [0; 20];
        socket.read_exact(&mut chunk)?;
        let [.., a, b, c, d] = chunk;
        let bytes = usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
        socket.read_exact(content.get_mut(..bytes).ok_or("a chunk is too long")?)?;
        if chunk[6] != 0 {
            return Err("a read failed".into());
        }
        let done = chunk[5] & 1 == 1;
        count += if done { 1.0 } else { 0.0 };
        if start.elapsed() > SECONDS {
            return Ok(count / start.elapsed().as_secs_f64());
        }
        if done {
            request(&mut socket)?;
        }
    }
}
