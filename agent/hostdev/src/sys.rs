//! The system calls that neither `std` nor `nix` wraps: all unsafe code of this crate.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LoopInfo64 {
    /// Device number of the file system that holds the backing file, as `stat` reports it in `st_dev`.
    pub(crate) device: u64,
    /// Inode number of the backing file.
    pub(crate) inode: u64,
    /// Device number of the backing block device, where the backing file is one.
    pub(crate) rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);

/// `struct sg_io_hdr` of `scsi/sg.h`, version 3.
#[repr(C)]
struct SgIoHdr {
    interface_id: libc::c_int,
    dxfer_direction: libc::c_int,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut libc::c_void,
    cmdp: *mut u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: libc::c_int,
    usr_ptr: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: libc::c_int,
    duration: u32,
    info: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<SgIoHdr>() == 88);

/// The generated wrappers; the numbers are those of `linux/fs.h`, `linux/loop.h` and `scsi/sg.h`.
mod ioctls {
    use super::{LoopInfo64, SgIoHdr};
    // Declared with size_t, but the kernel stores 64 bits on every architecture.
    nix::ioctl_read_bad!(blkgetsize64, nix::request_code_read!(0x12, 114, size_of::<libc::size_t>()), u64);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), libc::c_int);
    nix::ioctl_write_ptr_bad!(blkroset, nix::request_code_none!(0x12, 93), libc::c_int);
    nix::ioctl_none!(blkflsbuf, 0x12, 97);
    nix::ioctl_read_bad!(loop_get_status64, 0x4C05, LoopInfo64);
    nix::ioctl_readwrite_bad!(sg_io, 0x2285, SgIoHdr);
}

/// The size of a block device, in bytes.
pub(crate) fn device_bytes(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed; BLKGETSIZE64 stores one u64, and `bytes` is one.
    unsafe { ioctls::blkgetsize64(device.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

/// The logical block size of a block device, in bytes.
pub(crate) fn logical_block(device: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed; BLKSSZGET stores one int, and `bytes` is one.
    unsafe { ioctls::blksszget(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(io::Error::other)
}

/// Whether the kernel takes a block device for read-only.
pub(crate) fn is_read_only(device: BorrowedFd<'_>) -> io::Result<bool> {
    let mut flag = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed; BLKROGET stores one int, and `flag` is one.
    unsafe { ioctls::blkroget(device.as_raw_fd(), &raw mut flag) }?;
    Ok(flag != 0)
}

/// Makes a block device read-only or writable for everybody. Needs `CAP_SYS_ADMIN`. What was mapped or opened for writing before may
/// go on writing, and commands to the disk itself (`SG_IO`) are not looked at.
///
/// A device that its driver calls write-protected stays so, without an error: ask [`is_read_only`].
pub(crate) fn set_read_only(device: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let flag = libc::c_int::from(read_only);
    // SAFETY: the descriptor is open for as long as it is borrowed; BLKROSET reads one int, and `flag` is one.
    unsafe { ioctls::blkroset(device.as_raw_fd(), &raw const flag) }?;
    Ok(())
}

/// Writes back and forgets what the kernel has cached of a block device. Needs `CAP_SYS_ADMIN`.
///
/// The kernel does not report a failed write-back here: call `fsync` first.
pub(crate) fn drop_device_cache(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed; BLKFLSBUF takes no argument.
    unsafe { ioctls::blkflsbuf(device.as_raw_fd()) }?;
    Ok(())
}

/// What an opened loop device is attached to; `ENXIO` if to nothing.
pub(crate) fn loop_status(device: BorrowedFd<'_>) -> io::Result<LoopInfo64> {
    let mut info = LoopInfo64 {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    // SAFETY: the descriptor is open for as long as it is borrowed; LOOP_GET_STATUS64 stores one loop_info64, and `info`
    // has its layout and size (asserted above), in which every bit pattern is valid.
    unsafe { ioctls::loop_get_status64(device.as_raw_fd(), &raw mut info) }?;
    Ok(info)
}

/// Asks a SCSI disk for a VPD page with INQUIRY (SPC-4, 6.6), which the kernel lets anyone do who can open the disk.
pub(crate) fn inquire(disk: BorrowedFd<'_>, page: u8) -> io::Result<Vec<u8>> {
    const FROM_DEVICE: libc::c_int = -3;
    const SECONDS_5: u32 = 5_000;
    let mut answer = vec![0_u8; 0xfc];
    let length = u8::try_from(answer.len()).map_err(io::Error::other)?;
    // INQUIRY, EVPD set, the page, the length in two bytes, control.
    let mut command = [0x12, 1, page, 0, length, 0];
    let mut sense = [0_u8; 32];
    let mut header = SgIoHdr {
        interface_id: libc::c_int::from(b'S'),
        dxfer_direction: FROM_DEVICE,
        cmd_len: 6,
        mx_sb_len: 32,
        iovec_count: 0,
        dxfer_len: u32::from(length),
        dxferp: answer.as_mut_ptr().cast(),
        cmdp: command.as_mut_ptr(),
        sbp: sense.as_mut_ptr(),
        timeout: SECONDS_5,
        flags: 0,
        pack_id: 0,
        usr_ptr: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the descriptor is open for as long as it is borrowed. SG_IO reads and writes one sg_io_hdr, whose layout
    // `header` has; its three pointers lead to buffers that live until after the call and are as long as the header says
    // (6 bytes of command, 32 of sense, `length` of answer). The call returns only when the command has ended.
    unsafe { ioctls::sg_io(disk.as_raw_fd(), &raw mut header) }?;
    if header.status != 0 || header.host_status != 0 {
        return Err(io::Error::other("the disk does not have this VPD page"));
    }
    let missing = usize::try_from(header.resid).unwrap_or_default();
    answer.truncate(answer.len().saturating_sub(missing));
    Ok(answer)
}

/// Whether somebody keeps the kernel's clock right: adjtimex(2) asked without changing anything, `STA_UNSYNC` not set.
///
/// # Errors
///
/// When the kernel does not answer, as in a container that may not ask.
pub fn clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: a `timex` consists of integers only, for which zeroes are a value; `modes` of zero changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: adjtimex reads and writes one `timex`, and `state` is one.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(state.status & libc::STA_UNSYNC == 0) }
}

/// Takes an exclusive `flock` without waiting; `EWOULDBLOCK` if another open file has one.
///
/// `std` has this from Rust 1.89 on, and the wrapper in `nix` unlocks when it is dropped, even while duplicates of the
/// descriptor go on writing. A bare `flock` lasts until the last duplicate is closed, which is what a claim means.
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as the file is borrowed; flock has no memory arguments.
    let done = unsafe { libc::flock(file.as_fd().as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_answers_no_device_command() {
        let file = tempfile::tempfile().unwrap();
        let not_a_device = Some(libc::ENOTTY);
        assert_eq!(device_bytes(file.as_fd()).unwrap_err().raw_os_error(), not_a_device);
        assert_eq!(logical_block(file.as_fd()).unwrap_err().raw_os_error(), not_a_device);
        assert_eq!(is_read_only(file.as_fd()).unwrap_err().raw_os_error(), not_a_device);
        assert_eq!(set_read_only(file.as_fd(), true).unwrap_err().raw_os_error(), not_a_device);
        assert_eq!(drop_device_cache(file.as_fd()).unwrap_err().raw_os_error(), not_a_device);
        assert_eq!(inquire(file.as_fd(), 0x83).unwrap_err().raw_os_error(), not_a_device);
        assert!(loop_status(file.as_fd()).is_err());
    }
}
