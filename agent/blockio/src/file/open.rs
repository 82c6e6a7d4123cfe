//! Finding out what a descriptor is, and opening its inode a second time.

use super::{
    Caching,
    medium::{Alignment, Descriptions, Kind, Medium, Shape},
};
use crate::{Action, IoError};
use failback_units::ByteCount;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, open, posix_fadvise},
    sys::{
        stat::{FileStat, Mode, fstat},
        statfs::fstatfs,
    },
    unistd::{SysconfVar, sysconf},
};
use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

mod ioctl {
    // From <linux/fs.h>. BLKGETSIZE64 is declared there with `size_t`, which changes its number on 32-bit systems, and
    // nevertheless returns 64 bits.
    nix::ioctl_read!(block_size64, 0x12, 114, u64);
    nix::ioctl_read_bad!(logical_block, nix::request_code_none!(0x12, 104), nix::libc::c_int);
}

/// The alignment that is asked of `O_DIRECT` on files where the kernel does not tell it (before 6.1): no local file
/// system in a distribution's kernel wants more.
const DIRECT_FILE_ALIGNMENT: u32 = 4096;
/// No Linux file system has larger blocks; network file systems report larger ones, which are transfer sizes.
const MAX_FILE_SYSTEM_BLOCK: u64 = 64 << 10;

/// What is behind the descriptor, with everything that is needed to read and write it.
pub(super) fn medium(given: OwnedFd, name: Arc<str>, caching: Caching) -> Result<Medium, IoError> {
    let failed = |source: io::Error| IoError::whole(Action::Open, &name, source);
    let flags = open_flags(&given).map_err(failed)?;
    let stat = fstat(&given).map_err(|errno| failed(errno.into()))?;
    let shape = measure(given.as_fd(), &stat).map_err(failed)?;
    let given_is_direct = flags.contains(OFlag::O_DIRECT);
    let access = flags & OFlag::O_ACCMODE;
    let writable = access == OFlag::O_RDWR;
    let cached = if shape.kind == Kind::File && !given_is_direct {
        None
    } else {
        Some(reopen(given.as_fd(), &stat, access).map_err(failed)?)
    };
    let direct = if caching == Caching::Cached {
        None
    } else {
        match reopen(given.as_fd(), &stat, access | OFlag::O_DIRECT) {
            Ok(fd) => Some(fd),
            // What open(2) says where the file system has no O_DIRECT.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            Err(error) => return Err(failed(error)),
        }
    };
    let alignment = alignment(given.as_fd(), shape, writable).map_err(failed)?;
    // A file system may accept the flag when opening and yet say that direct transfers do not work on this file.
    let caching = if direct.is_some() && alignment.is_some() { caching } else { Caching::Cached };
    let alignment = alignment.unwrap_or(Alignment { offset: 1, memory: 1 });
    let descriptions = Descriptions { given, cached, direct };
    let medium = Medium::new(name, shape, descriptions, caching, alignment);
    if writable || medium.caching() == Caching::Probe {
        // No read-ahead: see the module's text for writable devices; a probing one must not find what it brought in
        // itself. Where the advice is refused only speed is lost.
        let _ = posix_fadvise(medium.cached(), 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
    }
    Ok(medium)
}

/// The flags it was opened with, if they are any use.
fn open_flags(fd: &OwnedFd) -> io::Result<OFlag> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if flags.contains(OFlag::O_PATH) {
        return refuse("the descriptor was opened with O_PATH and cannot be read");
    }
    if flags & OFlag::O_ACCMODE == OFlag::O_WRONLY {
        return refuse("the descriptor was opened for writing only; open it for reading and writing");
    }
    if flags.contains(OFlag::O_APPEND) {
        // On Linux pwrite(2) on such a descriptor appends, whatever the offset.
        return refuse("the descriptor was opened for appending and cannot be written at an offset");
    }
    Ok(flags)
}

/// Kind, size and logical block of what is behind the descriptor.
fn measure(fd: BorrowedFd<'_>, stat: &FileStat) -> io::Result<Shape> {
    let too_large = || io::Error::new(io::ErrorKind::InvalidData, "the size is beyond what Linux can address");
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => {
            let size = u64::try_from(stat.st_size).ok().and_then(ByteCount::new).ok_or_else(too_large)?;
            Ok(Shape { kind: Kind::File, size, logical_block: 512 })
        }
        libc::S_IFBLK => {
            let (mut size, mut block) = (0_u64, 0_i32);
            // SAFETY: BLKGETSIZE64 writes one 64-bit integer through the pointer, which is valid for it.
            unsafe { ioctl::block_size64(fd.as_raw_fd(), &raw mut size) }?;
            // SAFETY: BLKSSZGET writes one int through the pointer, which is valid for it.
            unsafe { ioctl::logical_block(fd.as_raw_fd(), &raw mut block) }?;
            let size = ByteCount::new(size).ok_or_else(too_large)?;
            let block = u32::try_from(block).ok().filter(|block| block.is_power_of_two());
            let block = block.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "the logical block size is not a power of two")
            })?;
            Ok(Shape { kind: Kind::Block, size, logical_block: block })
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a block device nor a regular file")),
    }
}

/// Opens the inode behind a descriptor once more.
///
/// Through `/proc/self/fd`, so that no name is looked up and no other inode can slip in; compared all the same, since
/// what is opened may be written. Without `O_EXCL`: a claim belongs to the description that made it.
fn reopen(fd: BorrowedFd<'_>, stat: &FileStat, flags: OFlag) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let again = open(path.as_str(), flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty())?;
    let second = fstat(&again)?;
    if (second.st_dev, second.st_ino, second.st_rdev) == (stat.st_dev, stat.st_ino, stat.st_rdev) {
        Ok(again)
    } else {
        Err(io::Error::other("opening the same device a second time led to another one"))
    }
}

/// What direct transfers need, or `None` where the kernel says that there are none on this file.
fn alignment(fd: BorrowedFd<'_>, shape: Shape, writable: bool) -> io::Result<Option<Alignment>> {
    let (offset, memory) = match told_alignment(fd) {
        Some((0, 0)) => return Ok(None),
        Some((offset, memory)) => (offset, memory),
        None if shape.kind == Kind::Block => (shape.logical_block, shape.logical_block),
        None => (DIRECT_FILE_ALIGNMENT, DIRECT_FILE_ALIGNMENT),
    };
    if !writable {
        return Ok(Some(Alignment { offset: u64::from(offset.max(1)), memory: u64::from(memory.max(1)) }));
    }
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096);
    let file_system_block = match shape.kind {
        // The block in which the page cache of a block device writes back is at most a page.
        Kind::Block => page,
        Kind::File => match u64::try_from(fstatfs(fd)?.block_size()) {
            Ok(block) if block.is_power_of_two() => block.min(MAX_FILE_SYSTEM_BLOCK),
            _ => page,
        },
    };
    let granule = u64::from(offset.max(1)).max(page).max(file_system_block);
    Ok(Some(Alignment { offset: granule, memory: u64::from(memory.max(1)) }))
}

/// The offset and memory alignment of direct transfers, from `statx` (Linux 6.1 and later); zeroes mean that there are no
/// direct transfers.
fn told_alignment(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path is a C string, and the kernel fills at most one `statx` structure at the pointer.
    let result = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_DIOALIGN, answer.as_mut_ptr()) };
    Errno::result(result).ok()?;
    // SAFETY: all fields are integers, for which zeroes are valid, and the kernel has overwritten some of them.
    let answer = unsafe { answer.assume_init() };
    let told = answer.stx_mask & libc::STATX_DIOALIGN != 0;
    told.then_some((answer.stx_dio_offset_align, answer.stx_dio_mem_align))
}
