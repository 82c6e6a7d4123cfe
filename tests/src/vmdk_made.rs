//! Files that no tool on Linux makes: host sparse, space-efficient sparse, and streams with a footer, byte by byte.
//!
//! They are put together from the descriptions of the formats and share nothing with the code that reads them: VMware's
//! notes "Virtual Disk Format 1.1" and "5.0", and for the space-efficient format what qemu's reader checks. `qemu-img` and
//! the crate `vmdk-core` read them in the tests, so that a misunderstanding here does not hide one there.

use crate::lab::noise;
use failback_image::stream::PackedGrain;

const SECTOR: usize = 512;

/// What a grain is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// Written, with this content.
    Data(Vec<u8>),
    /// Said to be zeroes.
    Zero,
    /// Unmapped by the guest (space-efficient sparse only).
    Unmapped,
}

fn put32(file: &mut [u8], at: usize, value: usize) {
    file[at..at + 4].copy_from_slice(&u32::try_from(value).expect("a test's numbers are small").to_le_bytes());
}

fn put64(file: &mut [u8], at: usize, value: u64) {
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Appends zeroes up to a whole sector; returns how many sectors there are then.
fn to_sector(file: &mut Vec<u8>) -> usize {
    file.resize(file.len().next_multiple_of(SECTOR), 0);
    file.len() / SECTOR
}

fn append(file: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let at = to_sector(file);
    file.extend_from_slice(bytes);
    to_sector(file);
    at
}

/// A host sparse extent. Tables and grains are put down in the order in which `grains` names them, as a guest's writes would.
#[must_use]
pub fn cowd(capacity_sectors: usize, grain_sectors: usize, grains: &[(usize, Made)]) -> Vec<u8> {
    const TABLE_ENTRIES: usize = 4096;
    let tables = capacity_sectors.div_ceil(grain_sectors).div_ceil(TABLE_ENTRIES);
    let mut file = vec![0; 4 * SECTOR];
    file[..4].copy_from_slice(b"COWD");
    put32(&mut file, 4, 1); // version
    put32(&mut file, 8, 3); // flags
    put32(&mut file, 12, capacity_sectors);
    put32(&mut file, 16, grain_sectors);
    put32(&mut file, 20, 4); // the directory's sector
    put32(&mut file, 24, tables);
    put32(&mut file, 32, 1); // root: cylinders, heads, sectors
    put32(&mut file, 36, 255);
    put32(&mut file, 40, 63);
    file.resize(4 * SECTOR + tables * 4, 0);
    to_sector(&mut file);
    for (index, made) in grains {
        let slot = 4 * SECTOR + index / TABLE_ENTRIES * 4;
        let mut table =
            usize::try_from(u32::from_le_bytes(file[slot..slot + 4].try_into().expect("4"))).expect("small");
        if table == 0 {
            table = append(&mut file, &[0; TABLE_ENTRIES * 4]);
            put32(&mut file, slot, table);
        }
        let sector = match made {
            Made::Data(bytes) => {
                let mut grain = bytes.clone();
                grain.resize(grain_sectors * SECTOR, 0);
                append(&mut file, &grain)
            }
            Made::Zero | Made::Unmapped => 1,
        };
        put32(&mut file, table * SECTOR + index % TABLE_ENTRIES * 4, sector);
    }
    let free = to_sector(&mut file);
    put32(&mut file, 28, free); // the next free sector
    file
}

/// Where in a space-efficient file of [`sesparse`] its parts are, in sectors.
pub mod sesparse_part {
    /// The volatile header.
    pub const VOLATILE: usize = 1;
    /// The grain directory, 1 sector.
    pub const DIRECTORY: usize = 4;
    /// The grain tables, of 64 sectors each.
    pub const TABLES: usize = 8;
}

/// A space-efficient sparse extent of up to 1 GiB; grain tables are numbered in the order in which they are needed, and
/// `skip` grains are left free before the first, so that numbers above 12 bits occur.
#[must_use]
pub fn sesparse(capacity_sectors: u64, skip: usize, grains: &[(usize, Made)]) -> Vec<u8> {
    use sesparse_part::{DIRECTORY, TABLES, VOLATILE};
    const TABLE_ENTRIES: usize = 4096;
    const TABLE_SECTORS: usize = 64;
    const GRAIN: usize = 4096;
    let tables = usize::try_from(capacity_sectors).expect("small").div_ceil(8).div_ceil(TABLE_ENTRIES);
    assert!(tables <= 64, "one sector of directory");
    let first_grain = TABLES + tables * TABLE_SECTORS;
    let mut file = vec![0; (first_grain + skip * 8) * SECTOR];
    let whole = |sectors: usize| sectors as u64;
    let fields: [u64; 26] = [
        0xcafe_babe,
        0x2_0000_0001,
        capacity_sectors,
        8,  // a grain, in sectors
        64, // a grain table, in sectors
        0,  // flags
        0,
        0,
        0,
        0,
        whole(VOLATILE),
        1,
        2, // journal header
        1,
        3, // journal
        1,
        whole(DIRECTORY),
        1,
        whole(TABLES),
        whole(tables * TABLE_SECTORS),
        5, // free bitmap
        1,
        6, // back map
        1,
        whole(first_grain),
        capacity_sectors,
    ];
    for (number, field) in fields.iter().enumerate() {
        put64(&mut file, number * 8, *field);
    }
    put64(&mut file, VOLATILE * SECTOR, 0xcafe_cafe);
    let (mut next_table, mut next_grain) = (0_usize, skip as u64);
    for (index, made) in grains {
        let slot = DIRECTORY * SECTOR + index / TABLE_ENTRIES * 8;
        let mut entry = u64::from_le_bytes(file[slot..slot + 8].try_into().expect("8"));
        if entry == 0 {
            entry = 0x1000_0000_0000_0000 | whole(next_table);
            next_table += 1;
            put64(&mut file, slot, entry);
        }
        let table = usize::try_from(entry & 0xffff_ffff).expect("small");
        let entry = match made {
            Made::Data(bytes) => {
                let mut grain = bytes.clone();
                grain.resize(GRAIN, 0);
                file.extend_from_slice(&grain);
                next_grain += 1;
                let number = next_grain - 1;
                0x3000_0000_0000_0000 | (number & 0xfff) << 48 | number >> 12
            }
            Made::Zero => 0x2000_0000_0000_0000,
            Made::Unmapped => 0x1000_0000_0000_0000,
        };
        put64(&mut file, (TABLES + table * TABLE_SECTORS) * SECTOR + index % TABLE_ENTRIES * 8, entry);
    }
    file
}

/// The header of a stream, which is its footer too.
fn stream_header(capacity_sectors: u64, grain_sectors: u64, directory: u64) -> Vec<u8> {
    let mut header = vec![0; SECTOR];
    header[..4].copy_from_slice(b"KDMV");
    put32(&mut header, 4, 3); // version
    put32(&mut header, 8, 0x3_0001); // line ends are checked, grains are compressed, there are markers
    put64(&mut header, 12, capacity_sectors);
    put64(&mut header, 20, grain_sectors);
    put64(&mut header, 28, 1); // the descriptor
    put64(&mut header, 36, 20);
    put32(&mut header, 44, 512); // entries in a grain table
    put64(&mut header, 56, directory);
    put64(&mut header, 64, 128); // overhead
    header[73..77].copy_from_slice(b"\n \r\n");
    header[77] = 1; // deflate
    header
}

fn marker(file: &mut Vec<u8>, sectors: u64, kind: usize) {
    let at = append(file, &[0; SECTOR]) * SECTOR;
    put64(file, at, sectors);
    put32(file, at + 12, kind);
}

/// A stream as VMware's own tools write it: a directory at the end, a table behind the grains of each 32 MiB, a footer.
///
/// The last grain is a whole one where `whole_last` says so. `descriptor` has at most 10 KiB.
#[must_use]
pub fn stream(disk: &[u8], grain_sectors: usize, descriptor: &str, whole_last: bool) -> Vec<u8> {
    let (capacity, grain) = ((disk.len() / SECTOR) as u64, grain_sectors * SECTOR);
    let mut file = stream_header(capacity, grain_sectors as u64, u64::MAX);
    file.extend_from_slice(descriptor.as_bytes());
    file.resize(128 * SECTOR, 0);
    let mut directory = Vec::new();
    for (number, part) in disk.chunks(grain * 512).enumerate() {
        let mut table = vec![0; 4 * SECTOR];
        for (within, content) in part.chunks(grain).enumerate() {
            let mut content = content.to_vec();
            if whole_last {
                content.resize(grain, 0);
            }
            let Some(packed) = PackedGrain::pack(&content) else { continue };
            let sector = to_sector(&mut file);
            put32(&mut table, within * 4, sector);
            let first = (number * 512 + within) * grain_sectors;
            file.extend_from_slice(&(first as u64).to_le_bytes());
            file.extend_from_slice(&u32::try_from(packed.packed_len()).expect("small").to_le_bytes());
            file.extend_from_slice(packed.as_bytes());
        }
        if table.iter().all(|byte| *byte == 0) {
            directory.extend_from_slice(&[0; 4]);
            continue;
        }
        marker(&mut file, 4, 1);
        let at = append(&mut file, &table);
        directory.extend_from_slice(&u32::try_from(at).expect("small").to_le_bytes());
    }
    marker(&mut file, directory.len().div_ceil(SECTOR) as u64, 2);
    let at = append(&mut file, &directory);
    marker(&mut file, 1, 3);
    append(&mut file, &stream_header(capacity, grain_sectors as u64, at as u64));
    marker(&mut file, 0, 0);
    file
}

/// A descriptor for one extent.
#[must_use]
pub fn descriptor(create_type: &str, capacity_sectors: usize, kind: &str, file: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=2f9a6d3c\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\n\
         # Extent description\nRW {capacity_sectors} {kind} \"{file}\"\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"1\"\nddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\nddb.virtualHWVersion = \"14\"\n"
    )
}

/// What guests write: here and there, in no order. Returns it with the disk that it makes.
#[must_use]
pub fn scattered(sectors: usize, grain_sectors: usize, grains: &[usize]) -> (Vec<(usize, Made)>, Vec<u8>) {
    let (grain, mut disk) = (grain_sectors * SECTOR, vec![0; sectors * SECTOR]);
    let mut all = Vec::new();
    for index in grains {
        let start = index * grain;
        let len = grain.min(disk.len() - start);
        let content = noise(len, *index as u64);
        disk[start..start + len].copy_from_slice(&content);
        all.push((*index, Made::Data(content)));
    }
    (all, disk)
}
