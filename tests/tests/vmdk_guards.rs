//! What guards a VMDK that is to be written: it cannot be got round by naming its extents, and locks of VMware's are heeded.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Place, Unchanged, changed, noise};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

const SIZE: usize = 1 << 20;

/// A raw base and a delta from it to another content.
struct Job {
    place: Place,
    base: PathBuf,
    delta: PathBuf,
}

impl Job {
    fn new() -> Self {
        let place = Place::new();
        let bytes = noise(SIZE, 1);
        let (base, result) = (place.file("base.raw", &bytes), place.file("result.raw", &changed(&bytes, SIZE, 2)));
        let delta = place.delta("x.delta", &base, &result, "4K");
        Self { place, base, delta }
    }

    /// The base as a VMDK in a directory of its own.
    fn vmdk(&self, subformat: &str) -> PathBuf {
        let vmdk = self.place.directory(subformat).join("t.vmdk");
        failback!("vmdk", "convert", self.base, vmdk, "--subformat", subformat).json();
        vmdk
    }

    /// Neither plan nor apply takes this target, and both say why; the file stays as it is.
    #[track_caller]
    fn refused(&self, target: &Path, words: &str) {
        let before = Unchanged::since(target);
        let plan = failback!("plan", self.delta, target).json_of(3);
        let refusals = plan["refusals"].as_array().unwrap();
        assert!(refusals.iter().any(|reason| reason.as_str().unwrap().contains(words)), "{words:?}: {refusals:?}");
        failback!("apply", self.delta, target, "--yes").refused(words);
        before.check();
    }

    /// What a signature of this disk says of the moment that it is from.
    fn kind(&self, disk: &Path) -> String {
        let signature = self.place.path("kind.sig");
        let report = failback!("sign", disk, "-o", signature).json();
        fs::remove_file(signature).unwrap();
        report["kind"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn passes(&self, target: &Path) {
        assert_eq!(failback!("plan", self.delta, target).json()["refusals"].as_array().unwrap().len(), 0);
        failback!("apply", self.delta, target, "--yes").done();
    }
}

#[test]
fn an_extent_is_no_target_by_its_own_name() {
    let job = Job::new();
    for (subformat, extent) in
        [("monolithicFlat", "t-flat.vmdk"), ("vmfs", "t-flat.vmdk"), ("twoGbMaxExtentFlat", "t-f001.vmdk")]
    {
        let vmdk = job.vmdk(subformat);
        let extent = vmdk.with_file_name(extent);
        let words = format!("is a part of the VMDK {}: name that instead", vmdk.display());
        job.refused(&extent, &words);
        let link = job.place.path(&format!("{subformat}.link"));
        symlink(&extent, &link).unwrap();
        job.refused(&link, &words);
        // As a source it is read as any other image.
        failback!("sign", extent, "-o", job.place.path(&format!("{subformat}.sig"))).json();
        job.passes(&vmdk);
    }
}

#[test]
fn descriptors_that_are_not_understood_own_their_extents_too() {
    let job = Job::new();
    let target = job.place.file("target.img", &fs::read(&job.base).unwrap());
    let sectors = SIZE / 512;
    let descriptor = |lines: &str| {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=00000007\nparentCID=ffffffff\ncreateType=\"custom\"\n{lines}\n"
        );
        job.place.file("Owner.VMDK", text.as_bytes())
    };
    for lines in [
        "RW 8 VSANSPARSE \"target.img\"",
        "  rdonly eight FLAT \"target.img\" 0",
        &format!("RW {sectors} FLAT \"target.img\" 0"),
    ] {
        let owner = descriptor(lines);
        job.refused(&target, &format!("is a part of the VMDK {}", owner.display()));
    }
    // What owns nothing of it, and what is called like a VMDK and is none, does no harm.
    descriptor(&format!("RW {sectors} FLAT \"other.img\" 0\n# RW {sectors} FLAT \"target.img\" 0"));
    job.place.file("noise.vmdk", &noise(5000, 3));
    job.place.file("empty.vmdk", &[]);
    symlink("nowhere", job.place.path("dangling.vmdk")).unwrap();
    job.passes(&target);
}

#[test]
fn a_disk_that_workstation_holds_is_not_written() {
    let job = Job::new();
    for (subformat, locked) in
        [("monolithicSparse", "t.vmdk"), ("monolithicFlat", "t.vmdk"), ("twoGbMaxExtentFlat", "t-f001.vmdk")]
    {
        let vmdk = job.vmdk(subformat);
        let lock = vmdk.with_file_name(format!("{locked}.lck"));
        fs::create_dir(&lock).unwrap();
        assert_eq!(job.kind(&vmdk), "crash", "a lock that was given back leaves an empty directory");
        fs::write(lock.join("M12345.lck"), "host 1234-5678").unwrap();
        let before = Unchanged::since(&vmdk);
        job.refused(&vmdk, &format!("which holds the lock {}: power it off", lock.display()));
        before.check();
        assert_eq!(job.kind(&vmdk), "fuzzy");
        fs::remove_dir_all(&lock).unwrap();
        // The lock of another disk.
        let other = vmdk.with_file_name("other.vmdk.lck");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("M12345.lck"), "").unwrap();
        assert_eq!(job.kind(&vmdk), "crash");
        job.passes(&vmdk);
    }
}

/// The name of the lock that ESXi makes for a file.
fn nfs_lock(inode: u64) -> String {
    format!(".lck-{:016x}", inode.swap_bytes())
}

#[test]
fn a_disk_that_esxi_holds_is_not_written() {
    let job = Job::new();
    // The example of Broadcom's article.
    assert_eq!(nfs_lock(4_295_558_112), ".lck-e003090001000000");
    let vmdk = job.vmdk("vmfs");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let own = nfs_lock(inode(&vmdk));
    let of_extent = nfs_lock(inode(&vmdk.with_file_name("t-flat.vmdk")));
    // One that means no file here may mean this one.
    for name in [own.as_str(), &of_extent, ".lck-ffffffffffffffff", ".lck-12"] {
        let lock = vmdk.with_file_name(name);
        fs::write(&lock, "").unwrap();
        job.refused(&vmdk, &format!("which holds the lock {}: power it off", lock.display()));
        assert_eq!(job.kind(&vmdk), "fuzzy", "{name}");
        fs::remove_file(&lock).unwrap();
    }
    // The lock of another file that is here, and what is no lock.
    let other = vmdk.with_file_name("other.vmdk");
    fs::write(&other, "x").unwrap();
    for name in [&nfs_lock(inode(&other)), ".lck-", ".lck-notes"] {
        fs::write(vmdk.with_file_name(name), "").unwrap();
    }
    assert_eq!(job.kind(&vmdk), "crash");
    job.passes(&vmdk);
}
