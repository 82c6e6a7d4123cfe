//! What the tests share.

use failback_transport::{End, Limits, Link};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// Far less than any limit of a real connection.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Limits that no test meets by chance.
pub(crate) fn patient() -> Limits {
    Limits { silence: Duration::from_secs(60), stall: Duration::from_secs(60), connect: Duration::from_secs(20) }
}

/// The other side that is a process of its own.
pub(crate) fn echo_program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    deps.parent().unwrap().parent().unwrap().join("examples/echo")
}

/// Bytes that look like nothing else, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.next().to_le_bytes()[3]).collect()
}

/// Sends through a link whose other side sends everything back, compares, and sees the end.
pub(crate) fn echoes(link: Link, len: usize) {
    let sent = noise(7, len);
    let Link { mut reader, mut writer, .. } = link;
    let mut back = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).unwrap();
            drop(writer);
        });
        reader.read_to_end(&mut back).unwrap();
    });
    assert!(back == sent, "{} of {} bytes came back", back.len(), sent.len());
}

/// What a reader says at last.
pub(crate) fn end_of_reader(link: &mut Link) -> io::Error {
    let mut buffer = [0; 4096];
    loop {
        match link.reader.read(&mut buffer) {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

/// What a writer says at last.
pub(crate) fn end_of_writer(link: &mut Link) -> io::Error {
    let buffer = vec![7; 65536];
    loop {
        if let Err(error) = link.writer.write(&buffer) {
            return error;
        }
    }
}

/// Calls the breaker while reader and writer wait, and sees both fail at once.
pub(crate) fn breaks_at_once(mut link: Link) {
    let breaker = link.breaker.clone();
    let Link { reader, writer, .. } = &mut link;
    thread::scope(|scope| {
        let reads = scope.spawn(|| {
            loop {
                match reader.read(&mut [0; 512]) {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) => return End::of(&error).cloned(),
                }
            }
        });
        let writes = scope.spawn(|| {
            loop {
                if let Err(error) = writer.write(&[7; 9000]) {
                    return End::of(&error).cloned();
                }
            }
        });
        thread::sleep(Duration::from_millis(200));
        assert!(!reads.is_finished() && !writes.is_finished(), "both wait");
        let began = Instant::now();
        breaker();
        assert_eq!(reads.join().unwrap(), Some(End::BrokenOff));
        assert_eq!(writes.join().unwrap(), Some(End::BrokenOff));
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        breaker();
    });
    let began = Instant::now();
    drop(link);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    breaker();
}

/// Breaks links in the middle of what goes both ways, and checks that what came before is what was sent.
pub(crate) fn breaks_anywhere(rounds: u64, connect: impl Fn() -> Link) {
    for round in 0..rounds {
        let mut random = Random(round + 1);
        let at = usize::try_from(random.next() % 400_000).unwrap();
        let sent = noise(round, 500_000);
        let Link { mut reader, mut writer, breaker } = connect();
        let mut back = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&sent));
            let mut buffer = [0; 5000];
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                back.extend_from_slice(&buffer[..len]);
                if back.len() >= at {
                    breaker();
                }
            }
        });
        assert!(back.len() >= at && sent.starts_with(&back), "round {round}");
    }
}

/// Whether a process is there, also one that nobody has reaped.
pub(crate) fn is_there(process: &str) -> bool {
    PathBuf::from("/proc").join(process.trim()).exists()
}

/// Waits for something, which has to come soon.
pub(crate) fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !there() {
        assert!(Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// How many descriptors and threads this process has.
pub(crate) fn held() -> (usize, usize) {
    let count = |of: &str| std::fs::read_dir(of).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

/// `SplitMix64`.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
