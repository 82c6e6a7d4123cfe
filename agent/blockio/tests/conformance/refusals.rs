//! Kernels that lack something: simulated with a system call filter on one thread and what it starts.

use crate::{
    CACHINGS,
    backends::{device, image},
    suite::{conforms, offset, range, read, write},
};
use failback_blockio::{Caching, Device, Engine, FileDevice, Operation, Options, run};
use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JUMP, BPF_K, BPF_LD, BPF_RET, BPF_STMT, BPF_W};
use std::{io, thread};

const SYS_CACHESTAT: i64 = 451;

/// Runs `body` on a thread for which the kernel answers `call` with `errno`.
fn without(call: i64, errno: i32, body: impl FnOnce() + Send + 'static) {
    let filtered = thread::spawn(move || {
        refuse(call, errno).expect("a system call filter");
        body();
    });
    filtered.join().expect("the test on a thread of its own");
}

fn refuse(call: i64, errno: i32) -> io::Result<()> {
    let code = |parts: &[u32]| u16::try_from(parts.iter().sum::<u32>()).expect("16 bits");
    let call = u32::try_from(call).expect("a system call's number");
    let errno = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).expect("an errno");
    // SAFETY: these only fill in structures.
    let mut program = unsafe {
        [
            // The number of the call is the first word of `struct seccomp_data`.
            BPF_STMT(code(&[BPF_LD, BPF_W, BPF_ABS]), 0),
            BPF_JUMP(code(&[BPF_JMP, BPF_JEQ, BPF_K]), call, 0, 1),
            BPF_STMT(code(&[BPF_RET, BPF_K]), errno),
            BPF_STMT(code(&[BPF_RET, BPF_K]), libc::SECCOMP_RET_ALLOW),
        ]
    };
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: both calls concern this thread only; the kernel copies the program, which has four instructions.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn without_io_uring() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        without(libc::SYS_io_uring_setup, errno, || {
            let image = image(&std::env::temp_dir(), (1 << 20) + 13);
            for caching in CACHINGS {
                let device = device(image.path(), Engine::Auto, caching);
                assert_eq!(device.engine(), "pread/pwrite");
                assert!(device.engine_note().expect("a reason").contains("io_uring"));
                conforms(&device);
            }
            let fd = crate::backends::open(image.path());
            let options = Options { engine: Engine::IoUring, caching: Caching::Direct };
            let error = FileDevice::new(fd, "image", options).expect_err("io_uring or nothing");
            assert!(error.source.to_string().contains("refuses io_uring"), "{}", error.source);
        });
    }
}

#[test]
fn without_cachestat() {
    without(SYS_CACHESTAT, libc::ENOSYS, || {
        for size in [1, 4097, (1 << 20) + 13] {
            let image = image(&std::env::temp_dir(), size);
            for engine in [Engine::IoUring, Engine::Blocking] {
                conforms(&device(image.path(), engine, Caching::Probe));
            }
        }
    });
}

#[test]
fn without_statx() {
    without(libc::SYS_statx, libc::ENOSYS, || {
        let image = image(&std::env::temp_dir(), (1 << 20) + 13);
        for engine in [Engine::IoUring, Engine::Blocking] {
            conforms(&device(image.path(), engine, Caching::Direct));
        }
    });
}

/// Zeroes are written where nothing better works; with `EBUSY`, only for the time being.
#[test]
fn without_fallocate() {
    for errno in [libc::EOPNOTSUPP, libc::EINVAL, libc::ENODEV, libc::ENOSYS, libc::EBUSY] {
        without(libc::SYS_fallocate, errno, || {
            let image = image(&std::env::temp_dir(), (5 << 20) + 13);
            for caching in [Caching::Direct, Caching::Cached] {
                let device = device(image.path(), Engine::Blocking, caching);
                conforms(&device);
                write(&device, offset(0), &vec![7; (5 << 20) + 13]);
                run(&device, Operation::Zero { range: range(5, (5 << 20) + 13) }).expect("zeroing");
                let found = read(&device, offset(0), (5 << 20) + 13);
                assert!(found[..5] == [7; 5] && found[5..].iter().all(|byte| *byte == 0));
            }
        });
    }
}

/// Any other answer to a zeroing call is an error.
#[test]
fn zeroing_that_fails() {
    without(libc::SYS_fallocate, libc::EIO, || {
        let image = image(&std::env::temp_dir(), 1 << 20);
        let device = device(image.path(), Engine::Blocking, Caching::Direct);
        let error = run(&device, Operation::Zero { range: range(0, 1 << 20) }).expect_err("EIO");
        assert_eq!(error.source.raw_os_error(), Some(libc::EIO));
        assert_eq!(device.counters().bytes_zeroed, 0);
    });
}
