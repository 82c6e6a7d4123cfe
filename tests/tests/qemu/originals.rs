//! Disks that were failed over: what they held then, what their machines have made of them since, and the difference.

use failback_tests::failback;
use failback_tests::lab::{Loop, Place, hash_of, noise, tool};
use failback_tests::proof::{file_hashes, real_tree, with_live, with_mounted};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
/// Every one of them; no multiple of what VMDKs are made of.
pub(crate) const SIZE: u64 = 65 * MIB;

/// A disk with one file system.
pub(crate) struct Original {
    kind: &'static str,
    /// Where on the disk the file system lies.
    place: (u64, u64),
    /// The disk as it was at the failover.
    pub(crate) base: PathBuf,
    /// The disk as it is now: copied while its machine ran, so that its file system was not unmounted.
    pub(crate) source: PathBuf,
    /// What leads from one to the other.
    pub(crate) delta: PathBuf,
    /// The root of the result.
    pub(crate) root: String,
}

impl Original {
    /// ext4 on a logical volume of LVM2; free space is not carried.
    pub(crate) fn ext4_on_lvm(place: &Place) -> Self {
        let lvm = place.sparse("lvm", SIZE, &[]);
        let volume = volume_on(&lvm);
        let clean = place.sparse("ext4", volume.1, &[]);
        tool("mkfs.ext4", &["-q", clean.to_str().unwrap()]);
        let [base, source] = ["ext4.base", "ext4.source"].map(|name| {
            fs::copy(&lvm, place.path(name)).unwrap();
            place.path(name)
        });
        Self::lived(place, "ext4", &clean, volume, [base, source], &[])
    }

    /// XFS on the whole disk, and every block is carried.
    pub(crate) fn xfs(place: &Place) -> Self {
        let clean = place.sparse("xfs", SIZE, &[]);
        // Without these it makes no file system that is as small as this.
        let small = ["TEST_DIR=x", "TEST_DEV=x", "QA_CHECK_FS=x", "mkfs.xfs", "-q", "-f", clean.to_str().unwrap()];
        tool("env", &small);
        let disks = ["xfs.base", "xfs.source"].map(|name| place.sparse(name, SIZE, &[]));
        Self::lived(place, "xfs", &clean, (0, SIZE), disks, &["--whole"])
    }

    /// Puts both states of a file system onto their disks.
    fn lived(
        place: &Place,
        kind: &'static str,
        clean: &Path,
        volume: (u64, u64),
        [base, source]: [PathBuf; 2],
        options: &[&str],
    ) -> Self {
        with_mounted(clean, kind, "rw", |root| real_tree(&root.join("old"), 8));
        let crashed = place.path(&format!("{kind}.crashed"));
        with_live(clean, kind, "rw", |live| {
            change(live.root());
            live.crash_copy(&crashed);
        });
        put(clean, &base, volume.0);
        put(&crashed, &source, volume.0);
        let [signature, delta] = ["sig", "delta"].map(|it| place.path(&format!("{kind}.{it}")));
        let mut sign = failback!("sign", base, "-o", signature);
        let mut diff = failback!("diff", "--base", signature, source, "-o", delta);
        for option in options {
            (sign, diff) = (sign.arg(option), diff.arg(option));
        }
        sign.json();
        let told = diff.json();
        assert!(told["changed_bytes"].as_u64().is_none_or(|bytes| bytes > 0), "{told}");
        let root = told["result_root"].as_str().unwrap().to_owned();
        Self { kind, place: volume, base, source, delta, root }
    }

    /// A VMDK with the disk as it was, made by `qemu-img` in a directory of its own.
    pub(crate) fn vmdk(&self, place: &Place, subformat: &str) -> PathBuf {
        let vmdk = place.directory(&format!("{}-{subformat}", self.kind)).join("disk.vmdk");
        let option = format!("subformat={subformat}");
        let [from, to] = [&self.base, &vmdk].map(|path| path.to_str().unwrap());
        tool("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "-o", &option, from, to]);
        vmdk
    }

    /// Expects that a VMDK holds what this disk holds now, by programs that are not ours: every file after the file system was
    /// recovered, and every byte where free space was carried too.
    #[track_caller]
    pub(crate) fn has_come_home(&self, place: &Place, vmdk: &Path) {
        let raw = place.path("home.raw");
        tool("qemu-img", &["convert", "-f", "vmdk", "-O", "raw", vmdk.to_str().unwrap(), raw.to_str().unwrap()]);
        let (came, expected) = (self.files(place, &raw), self.files(place, &self.source));
        assert!(expected.keys().any(|name| name.starts_with("new/")), "without files this proves nothing");
        assert!(came == expected, "{}: files differ", vmdk.display());
        if self.kind == "xfs" {
            is_equal(vmdk, &self.source);
            assert_eq!(self.root, hash_of(&self.source, None));
        }
        let coverage = if self.kind == "xfs" { "" } else { "--used" };
        failback!("verify", raw, "--root", self.root).args(coverage).done();
        fs::remove_file(raw).unwrap();
    }

    /// What is in the file system of a disk, after a kernel has recovered it.
    fn files(&self, place: &Place, disk: &Path) -> BTreeMap<String, String> {
        let (at, len) = self.place;
        let alone = place.sparse("alone", len, &[]);
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        File::open(disk).unwrap().read_exact_at(&mut bytes, at).unwrap();
        fs::write(&alone, bytes).unwrap();
        with_mounted(&alone, self.kind, "rw", file_hashes)
    }
}

/// Expects that a VMDK is equal to an image, byte for byte, as `qemu-img` sees it.
#[track_caller]
pub(crate) fn is_equal(vmdk: &Path, image: &Path) {
    let [vmdk, image] = [vmdk, image].map(|path| path.to_str().unwrap());
    tool("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", vmdk, image]);
}

/// What happens to files in the cloud: some go, some change, and new ones come, of which not all is on the disk yet.
fn change(root: &Path) {
    fs::remove_dir_all(root.join("old/texts")).unwrap();
    real_tree(&root.join("new"), 6);
    fs::write(root.join("new/database"), noise(3 << 20, 7)).unwrap();
    tool("sync", &["-f".as_ref(), root.as_os_str()]);
    let database = OpenOptions::new().write(true).open(root.join("new/database")).unwrap();
    for page in 0..40 {
        database.write_all_at(&noise(4096, page), page * 19 * 4096).unwrap();
    }
    database.sync_all().unwrap();
    fs::rename(root.join("new/texts"), root.join("new/renamed")).unwrap();
    File::open(root.join("new/database")).unwrap().sync_all().unwrap();
    fs::write(root.join("new/last"), noise(70_000, 8)).unwrap();
    File::open(root.join("new/last")).unwrap().sync_all().unwrap();
}

/// Makes a volume group on a disk, and a logical volume that takes nearly all of it; returns where that lies. No device mapper has
/// a part in it.
fn volume_on(disk: &Path) -> (u64, u64) {
    const EXTENTS: u64 = 60;
    let device = Loop::attach(disk, &[]);
    let name = device.path.to_str().unwrap();
    let config = format!(
        "devices {{ filter=[\"a|^{name}$|\",\"r|.*|\"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }} activation {{ monitoring=0 }}"
    );
    let lvm = |arguments: &[&str]| {
        tool("lvm", &[arguments, &["--config", &config, "--driverloaded", "n", "--quiet"]].concat())
    };
    lvm(&["vgcreate", "-s", "1M", "system", name]);
    lvm(&["lvcreate", "-an", "-Zn", "-Wn", "-l", &EXTENTS.to_string(), "-n", "data", "system"]);
    let start = lvm(&["pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start", name]);
    (start.parse().unwrap(), EXTENTS * MIB)
}

/// Writes what is in one image onto another.
fn put(from: &Path, disk: &Path, at: u64) {
    let to = OpenOptions::new().write(true).open(disk).unwrap();
    let bytes = fs::read(from).unwrap();
    for (piece, start) in bytes.chunks(64 << 10).zip((at..).step_by(64 << 10)) {
        if piece.iter().any(|byte| *byte != 0) {
            to.write_all_at(piece, start).unwrap();
        }
    }
    to.sync_all().unwrap();
}
