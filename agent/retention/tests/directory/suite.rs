//! What `Directory` and `StoredFile` promise, but for power losses.

use failback_retention::{Appender, Directory, Reader, StoredFile};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};

pub(crate) type Check = fn(&dyn Directory);

pub(crate) const ALL: &[Check] = &[
    files_are_made_once_and_read_back,
    reads_are_exact,
    what_was_opened_is_not_appended_to,
    a_rename_replaces,
    a_name_that_is_given_up_is_free,
    removed_files_are_gone_and_stay_readable,
    only_names_of_files_are_taken,
    adapters_read_and_write,
    space_is_told,
];

pub(crate) fn make(directory: &dyn Directory, name: &str, content: &[u8]) {
    let mut file = directory.create(name).unwrap();
    file.append(content).unwrap();
    file.sync().unwrap();
}

pub(crate) fn read(file: &dyn StoredFile) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(0, &mut content).unwrap();
    content
}

pub(crate) fn content(directory: &dyn Directory, name: &str) -> Option<Vec<u8>> {
    match directory.open(name) {
        Ok(file) => Some(read(&*file)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

fn names(directory: &dyn Directory) -> Vec<String> {
    let mut names = directory.names().unwrap();
    names.sort();
    names
}

fn files_are_made_once_and_read_back(directory: &dyn Directory) {
    assert_eq!(names(directory), [""; 0]);
    assert!(!directory.place().is_empty());
    let mut file = directory.create("a").unwrap();
    assert!(file.is_empty().unwrap());
    file.append(b"one").unwrap();
    file.append(b"").unwrap();
    file.append(&[7; 5000]).unwrap();
    file.sync().unwrap();
    assert_eq!(file.len().unwrap(), 5003);
    assert_eq!(read(&*file), [b"one".as_slice(), &[7; 5000]].concat());
    assert_eq!(directory.create("a").map(drop).unwrap_err().kind(), ErrorKind::AlreadyExists);
    make(directory, "b", b"two");
    directory.sync().unwrap();
    assert_eq!(names(directory), ["a", "b"]);
    assert_eq!(content(directory, "b").unwrap(), b"two");
    assert_eq!(content(directory, "a").unwrap().len(), 5003);
    assert_eq!(content(directory, "c"), None);
}

fn reads_are_exact(directory: &dyn Directory) {
    make(directory, "a", b"0123456789");
    let file = directory.open("a").unwrap();
    let mut three = [0; 3];
    file.read_at(7, &mut three).unwrap();
    assert_eq!(&three, b"789");
    file.read_at(10, &mut []).unwrap();
    for at in [8, 10, 11, u64::MAX - 3] {
        let error = file.read_at(at, &mut three).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidInput), "{at}: {error}");
    }
}

fn what_was_opened_is_not_appended_to(directory: &dyn Directory) {
    make(directory, "a", b"one");
    directory.open("a").unwrap().append(b"more").unwrap_err();
    assert_eq!(content(directory, "a").unwrap(), b"one");
}

fn a_rename_replaces(directory: &dyn Directory) {
    make(directory, "old", b"old");
    make(directory, "new", b"new");
    let before = directory.open("old").unwrap();
    directory.rename("new", "old").unwrap();
    assert_eq!(names(directory), ["old"]);
    assert_eq!(content(directory, "old").unwrap(), b"new");
    assert_eq!(read(&*before), b"old");
    directory.rename("old", "old").unwrap();
    assert_eq!(content(directory, "old").unwrap(), b"new");
    assert_eq!(directory.rename("new", "old").unwrap_err().kind(), ErrorKind::NotFound);
}

fn a_name_that_is_given_up_is_free(directory: &dyn Directory) {
    make(directory, "a", b"1");
    make(directory, "b", b"2");
    directory.rename("b", "a").unwrap();
    directory.rename("a", "c").unwrap();
    assert_eq!(names(directory), ["c"]);
    make(directory, "a", b"3");
    directory.remove("a").unwrap();
    assert_eq!(names(directory), ["c"]);
    make(directory, "a", b"4");
    assert_eq!(content(directory, "a").unwrap(), b"4");
    assert_eq!(content(directory, "c").unwrap(), b"2");
}

fn removed_files_are_gone_and_stay_readable(directory: &dyn Directory) {
    make(directory, "a", b"one");
    let file = directory.open("a").unwrap();
    directory.remove("a").unwrap();
    assert_eq!(names(directory), [""; 0]);
    assert_eq!(read(&*file), b"one");
    assert_eq!(directory.remove("a").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(directory.open("a").map(drop).unwrap_err().kind(), ErrorKind::NotFound);
}

fn only_names_of_files_are_taken(directory: &dyn Directory) {
    make(directory, "a", b"one");
    let long = "x".repeat(256);
    for name in ["", ".", "..", "a/b", "/etc/passwd", "a\0b", &long] {
        for result in [
            directory.create(name).map(drop),
            directory.open(name).map(drop),
            directory.remove(name),
            directory.rename(name, "b"),
            directory.rename("a", name),
        ] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
        }
    }
    make(directory, &long[..255], b"long");
    assert_eq!(content(directory, &long[..255]).unwrap(), b"long");
    assert_eq!(names(directory).len(), 2);
}

fn adapters_read_and_write(directory: &dyn Directory) {
    let mut appender = Appender::new(directory.create("a").unwrap());
    write!(appender, "hello-{}", 1).unwrap();
    appender.flush().unwrap();
    let mut reader = Reader::new(directory.open("a").unwrap()).unwrap();
    // What is appended later is not seen.
    let mut file = appender.into_inner();
    file.append(b"later").unwrap();
    assert_eq!((reader.len(), reader.is_empty()), (7, false));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello-1");
    assert_eq!(reader.seek(SeekFrom::End(-1)).unwrap(), 6);
    assert_eq!(reader.seek(SeekFrom::Current(-2)).unwrap(), 4);
    let mut two = [0; 2];
    reader.read_exact(&mut two).unwrap();
    assert_eq!(&two, b"o-");
    assert_eq!(reader.seek(SeekFrom::Start(u64::MAX)).unwrap(), u64::MAX);
    assert_eq!(reader.read(&mut two).unwrap(), 0);
    reader.seek(SeekFrom::Current(1)).unwrap_err();
    reader.seek(SeekFrom::End(-8)).unwrap_err();
    assert_eq!(read(&*reader.into_inner()), b"hello-1later");
}

fn space_is_told(directory: &dyn Directory) {
    make(directory, "a", &[1; 10_000]);
    let space = directory.space().unwrap();
    assert!(space.total > space.available && !space.available.is_zero(), "{space:?}");
}
