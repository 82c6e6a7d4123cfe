//! Clean file systems of every shape: the map is, byte for byte, what partclone and dumpe2fs say.

use failback_tests::lab::{Place, tool, try_tool};
use failback_tests::proof::{assert_same_map, mapped, partclone_free, real_tree};
use failback_volumes::{Kind, State};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

/// How a file system is made, and what it is called then.
struct Shape {
    options: &'static str,
    size: &'static str,
    kind: Kind,
    /// Whether checksums vouch for its map.
    checked: bool,
}

const fn shape(options: &'static str, size: &'static str, kind: Kind, checked: bool) -> Shape {
    Shape { options, size, kind, checked }
}

/// Every one is filled with the same tree of some 12 MiB.
const SHAPES: [Shape; 45] = [
    shape("-t ext2 -b 1024", "64M", Kind::Ext2, false),
    shape("-t ext2 -b 2048", "64M", Kind::Ext2, false),
    shape("-t ext2 -b 4096", "200M", Kind::Ext2, false),
    shape("-t ext2 -r 0 -b 1024 -O none", "64M", Kind::Ext2, false),
    shape("-t ext2 -b 1024 -O ^sparse_super,^resize_inode", "64M", Kind::Ext2, false),
    shape("-t ext3 -b 1024", "64M", Kind::Ext3, false),
    shape("-t ext3 -b 4096", "300M", Kind::Ext3, false),
    shape("-t ext3 -b 4096 -O meta_bg,^resize_inode -g 2048", "100M", Kind::Ext3, false),
    shape("-t ext4 -b 1024", "100M", Kind::Ext4, true),
    shape("-t ext4 -b 2048", "100M", Kind::Ext4, true),
    shape("-t ext4 -b 4096", "700M", Kind::Ext4, true),
    shape("-t ext4 -b 8192", "300M", Kind::Ext4, true),
    shape("-t ext4 -b 16384", "300M", Kind::Ext4, true),
    shape("-t ext4 -b 32768 -N 2048", "400M", Kind::Ext4, true),
    shape("-t ext4 -b 65536 -N 2048", "500M", Kind::Ext4, true),
    shape("-t ext4 -b 65536 -N 2048 -O ^metadata_csum,uninit_bg,^64bit", "9G", Kind::Ext4, false),
    shape("-t ext4 -O ^64bit", "300M", Kind::Ext4, true),
    shape("-t ext4 -b 1024 -O ^64bit", "300M", Kind::Ext4, true),
    shape("-t ext4 -E desc_size=128", "300M", Kind::Ext4, true),
    shape("-t ext4 -b 1024 -E desc_size=128 -O ^metadata_csum,uninit_bg", "100M", Kind::Ext4, false),
    shape("-t ext4 -O meta_bg,^resize_inode -g 1024", "300M", Kind::Ext4, true),
    shape("-t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg -g 1024", "300M", Kind::Ext4, true),
    shape("-t ext4 -O ^flex_bg", "300M", Kind::Ext4, true),
    shape("-t ext4 -b 1024 -O ^flex_bg,^metadata_csum,uninit_bg", "300M", Kind::Ext4, false),
    shape("-t ext4 -O ^metadata_csum,uninit_bg", "1G", Kind::Ext4, false),
    shape("-t ext4 -O ^metadata_csum,^uninit_bg", "1G", Kind::Ext4, false),
    shape("-t ext4 -O metadata_csum_seed", "300M", Kind::Ext4, true),
    shape("-t ext4 -O sparse_super2 -g 2048", "300M", Kind::Ext4, true),
    shape("-t ext4 -O sparse_super2,^resize_inode -E num_backup_sb=1", "1G", Kind::Ext4, true),
    shape("-t ext4 -O ^sparse_super,^resize_inode -g 2048", "300M", Kind::Ext4, true),
    shape("-t ext4 -O bigalloc -C 65536", "2G", Kind::Ext4, true),
    shape("-t ext4 -b 1024 -O bigalloc -C 16384", "300M", Kind::Ext4, true),
    shape("-t ext4 -b 1024 -O bigalloc,meta_bg,^resize_inode -C 4096 -g 8192", "300M", Kind::Ext4, true),
    shape("-t ext4 -O bigalloc,^metadata_csum,uninit_bg,^64bit -C 16384", "3G", Kind::Ext4, false),
    shape("-t ext4 -b 4096 -g 8200", "301M", Kind::Ext4, true),
    shape("-t ext4 -b 1024 -g 1016", "50001k", Kind::Ext4, true),
    shape("-t ext4 -O orphan_file,^resize_inode", "300M", Kind::Ext4, true),
    shape("-t ext4 -O ^has_journal", "300M", Kind::Ext4, true),
    shape("-t ext4 -O quota,project,mmp,ea_inode,large_dir -I 512", "300M", Kind::Ext4, true),
    shape("-t ext4 -O inline_data,encrypt,casefold,verity,stable_inodes", "300M", Kind::Ext4, true),
    shape("-t ext4 -G 64 -E packed_meta_blocks=1", "1G", Kind::Ext4, true),
    shape("-t ext4 -I 128 -N 20000 -E resize=16G", "300M", Kind::Ext4, true),
    shape("-t ext4 -O fast_commit -J fast_commit_size=4", "300M", Kind::Ext4, true),
    shape("-t ext4 -b 4096 -E lazy_itable_init=1,lazy_journal_init=1", "129M", Kind::Ext4, true),
    shape("-t ext4 -b 4096 -g 4096", "131137k", Kind::Ext4, true),
];

#[test]
fn clean_maps_are_what_others_say() {
    let place = Place::new();
    let tree = place.directory("tree");
    real_tree(&tree, 12);
    let shapes = Mutex::new((0..SHAPES.len()).collect::<VecDeque<_>>());
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(number) = { shapes.lock().unwrap().pop_front() } {
                    compare(&SHAPES[number], &tree, &place.path(&format!("{number}.img")));
                }
            });
        }
    });
}

/// Makes a file system in an image.
pub(super) fn make(options: &str, size: &str, tree: Option<&Path>, image: &Path) {
    let mut arguments: Vec<&OsStr> = vec!["-q".as_ref(), "-F".as_ref()];
    arguments.extend(options.split(' ').map(OsStr::new));
    arguments.extend(tree.iter().flat_map(|tree| ["-d".as_ref(), tree.as_os_str()]));
    arguments.extend([image.as_os_str(), size.as_ref()]);
    tool("mke2fs", &arguments);
}

fn compare(shape: &Shape, tree: &Path, image: &Path) {
    let context = format!("{} {}", shape.options, shape.size);
    make(shape.options, shape.size, Some(tree), image);
    let found = mapped(image);
    assert_eq!((found.kind, found.state), (shape.kind, State::Clean), "{context}: {:?}", found.map);
    let map = found.map.unwrap_or_else(|why| panic!("{context}: every block, because {why}"));
    assert_eq!(found.remarks, Vec::<String>::new(), "{context}");
    assert_eq!(found.checked, shape.checked, "{context}");
    assert!(map.bytes().get() > 16 << 20, "{context}");
    println!("{context}: {} free in {} extents", map.bytes(), map.extents().len());
    assert_same_map(&map, dumpe2fs_free(image));
    // partclone takes clusters for blocks.
    if !shape.options.contains("bigalloc") {
        assert_same_map(&map, partclone_free("partclone.extfs", image));
    }
    std::fs::remove_file(image).unwrap();
}

/// What dumpe2fs takes for free, in bytes.
pub(super) fn dumpe2fs_free(image: &Path) -> Vec<Range<u64>> {
    let output = try_tool("dumpe2fs", &[image]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let block: u64 = field(&text, "Block size:").unwrap();
    let blocks: u64 = field(&text, "Block count:").unwrap();
    // With clusters, a range ends with the first block of its last one.
    let cluster = field(&text, "Cluster size:").map_or(1, |bytes| bytes / block);
    let lists = text.lines().filter_map(|line| line.strip_prefix("  Free blocks: "));
    let ranges = lists.flat_map(|list| list.split(", ")).filter(|range| !range.is_empty());
    let ends = ranges.map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        first * block..blocks.min(last + cluster) * block
    });
    ends.collect()
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)).and_then(|value| value.trim().parse().ok())
}

/// More groups than there is memory for the places of their metadata before neighbours are joined.
#[test]
fn more_than_a_hundred_thousand_groups() {
    let place = Place::new();
    let image = place.sparse("large", 900 << 30, &[]);
    tool("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", "-E", "lazy_itable_init=1", image.to_str().unwrap()]);
    let found = mapped(&image);
    assert_eq!((found.state, found.checked), (State::Clean, true));
    assert_same_map(&found.map.unwrap(), dumpe2fs_free(&image));
}
