//! A directory and its catalogue: the one place where a change of the recovery points comes about.

mod error;

pub use error::{Gap, Missing, StoreError, is_full};

use crate::catalogue::{encode, read};
use crate::{
    Catalogue, CatalogueError, Copies, DeltaSource, Directory, Disk, FileId, Link, MoveError, Pending, Point, PointId,
    StoredFile,
};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

const CATALOGUE: &str = "catalogue";
const NEW_CATALOGUE: &str = "catalogue.new";
const NEW_TREE: &str = "tree.new";

/// A hash tree of a point, in a file.
pub struct StoredTree {
    /// The point.
    pub point: PointId,
    /// The file: a signature.
    pub file: Box<dyn StoredFile>,
}

/// The recovery points of a disk, open for reading or for changes.
pub struct Store {
    directory: Arc<dyn Directory>,
    catalogue: Catalogue,
    copies: Copies,
    /// The number of the next file that is made: ahead of the catalogue's while files are made that it does not name yet.
    next_file: u64,
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Reading,
    Changes,
    /// It was open for changes, and what became of the last one is not known.
    Doubtful,
}

impl Store {
    /// Begins the recovery points of a disk: its present state is the first, present and committed.
    ///
    /// The caller holds the exclusive lock on the directory, and has made the directory's own name durable.
    ///
    /// # Errors
    ///
    /// When there are points already, or files of lost ones; when the file system fails.
    pub fn create(directory: Arc<dyn Directory>, disk: Disk, base: Point) -> Result<Self, StoreError> {
        let place = directory.place();
        match Self::load(&*directory) {
            Err(StoreError::Empty(_)) => {}
            Err(StoreError::Catalogue { .. }) | Ok(_) => return Err(StoreError::Exists(place)),
            Err(other) => return Err(other),
        }
        let catalogue = Catalogue::new(disk, base)?;
        let mut new = Self { directory, catalogue, copies: Copies::Intact, next_file: 0, access: Access::Changes };
        new.tidy()?;
        let first = new.catalogue.clone();
        new.save(first)?;
        Ok(new)
    }

    /// Opens the points for reading. No lock is needed to list them, since a catalogue is replaced in one piece; whoever reads
    /// their files holds a shared one.
    ///
    /// # Errors
    ///
    /// When there are none, the catalogue is damaged, or the file system fails.
    pub fn open_for_reading(directory: Arc<dyn Directory>) -> Result<Self, StoreError> {
        let (catalogue, copies) = Self::load(&*directory)?;
        let next_file = catalogue.next_file().0;
        Ok(Self { directory, catalogue, copies, next_file, access: Access::Reading })
    }

    /// Opens the points for changes: removes what an interrupted change has left, and saves the catalogue anew, so that what
    /// it says is durable whoever wrote it. If the drive is too full for that, what was there is synced instead.
    ///
    /// The caller holds the exclusive lock on the directory.
    ///
    /// # Errors
    ///
    /// As [`open_for_reading`](Self::open_for_reading), and when they are those of another disk.
    pub fn open_for_changes(directory: Arc<dyn Directory>, binding: &[u8; 32]) -> Result<Self, StoreError> {
        let mut store = Self::open_for_reading(directory)?;
        store.check_disk(binding)?;
        store.renew()?;
        Ok(store)
    }

    /// Reads again what is there. After a failed [`save`](Self::save) this says what became of it, and makes that durable.
    ///
    /// # Errors
    ///
    /// As opening, and then nothing can be saved until it succeeds.
    pub fn reload(&mut self) -> Result<(), StoreError> {
        let again = Self::open_for_reading(Arc::clone(&self.directory))?;
        again.check_disk(&self.catalogue.disk().binding)?;
        let access = self.access;
        *self = again;
        if access == Access::Reading { Ok(()) } else { self.renew() }
    }

    /// Refuses if the points are not those of the disk with this binding.
    ///
    /// # Errors
    ///
    /// [`StoreError::OtherDisk`].
    pub fn check_disk(&self, binding: &[u8; 32]) -> Result<(), StoreError> {
        let disk = self.catalogue.disk();
        if disk.binding == *binding {
            return Ok(());
        }
        Err(StoreError::OtherDisk { place: self.directory.place(), description: disk.description.clone() })
    }

    /// The catalogue as it was read or saved last.
    #[must_use]
    pub const fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Which of the catalogue's two copies were intact when it was read.
    #[must_use]
    pub const fn copies(&self) -> Copies {
        self.copies
    }

    /// Where everything is.
    #[must_use]
    pub fn directory(&self) -> &Arc<dyn Directory> {
        &self.directory
    }

    /// The number of the next file that is made.
    #[must_use]
    pub const fn next_file(&self) -> FileId {
        FileId(self.next_file)
    }

    /// Makes the file of a new link, which the catalogue does not name yet: until it does, the file is a leftover.
    ///
    /// Before it is named, the caller syncs it.
    ///
    /// # Errors
    ///
    /// When the file system fails, or this is not open for changes.
    pub fn create_link(&mut self) -> Result<(FileId, Box<dyn StoredFile>), StoreError> {
        self.create_file(FileId::delta_name)
    }

    /// Makes the file for a delta that is to be applied, as [`create_link`](Self::create_link) does.
    ///
    /// # Errors
    ///
    /// As that.
    pub fn create_spool(&mut self) -> Result<(FileId, Box<dyn StoredFile>), StoreError> {
        self.create_file(FileId::spool_name)
    }

    /// Makes the index of a link, empty. An old one is removed.
    ///
    /// # Errors
    ///
    /// As [`create_link`](Self::create_link).
    pub fn create_index(&mut self, link: FileId) -> Result<Box<dyn StoredFile>, StoreError> {
        self.check_writable()?;
        let name = link.index_name();
        self.remove_if_there(&name)?;
        self.directory.create(&name).map_err(|error| self.failed("create", &name, error))
    }

    /// Makes the file for the hash tree of a point, to be given its name by [`keep_tree`](Self::keep_tree).
    ///
    /// # Errors
    ///
    /// As [`create_link`](Self::create_link).
    pub fn create_tree(&mut self) -> Result<Box<dyn StoredFile>, StoreError> {
        self.check_writable()?;
        self.remove_if_there(NEW_TREE)?;
        self.directory.create(NEW_TREE).map_err(|error| self.failed("create", NEW_TREE, error))
    }

    /// Makes the file that was made last the tree of a point, in the place of any other. The caller has synced it. A tree can
    /// be made again: which name it has after a power loss matters to nobody, as long as it is whole. So nothing is synced, and no
    /// sync of it can fail.
    ///
    /// # Errors
    ///
    /// When the file system fails.
    pub fn keep_tree(&mut self, point: PointId) -> Result<(), StoreError> {
        self.check_writable()?;
        for old in self.trees()? {
            self.remove_if_there(&tree_name(old))?;
        }
        let name = tree_name(point);
        self.directory.rename(NEW_TREE, &name).map_err(|error| self.failed("rename", NEW_TREE, error))
    }

    /// Removes the file that was made last for a tree. If it stays, it goes when the points are next opened for changes.
    pub fn discard_tree(&self) {
        let _ = self.remove_if_there(NEW_TREE);
    }

    /// The hash tree that was kept last, and of which point it is; none if there is none of a point that is still there.
    ///
    /// # Errors
    ///
    /// When the file system fails.
    pub fn open_tree(&self) -> Result<Option<StoredTree>, StoreError> {
        let known = self.trees()?.into_iter().find(|point| self.catalogue.point(*point).is_some());
        let Some(point) = known else { return Ok(None) };
        Ok(self.open_if_there(&tree_name(point))?.map(|file| StoredTree { point, file }))
    }

    /// The points of whose trees there are files.
    fn trees(&self) -> Result<Vec<PointId>, StoreError> {
        let names = self.directory.names().map_err(|error| self.failed("read", "the names", error))?;
        Ok(names.iter().filter_map(|name| point_of_tree(name)).collect())
    }

    /// Removes a file that was made and is not going to be named: that of a link, its index, or that of a delta.
    ///
    /// # Errors
    ///
    /// When the file system fails, or this is not open for changes: after a failed save, the catalogue may name the file. It is
    /// removed when the points are opened for changes the next time.
    ///
    /// # Panics
    ///
    /// If the catalogue names it.
    pub fn discard(&self, file: FileId) -> Result<(), StoreError> {
        self.check_writable()?;
        assert!(self.catalogue.files().all(|named| named != file), "file {file} is in use");
        self.remove_all(file)
    }

    /// The delta of a link.
    ///
    /// # Errors
    ///
    /// [`StoreError::Gap`] when it is missing or has another length; when the file system fails.
    pub fn open_link(&self, link: &Link) -> Result<Box<dyn StoredFile>, StoreError> {
        let name = link.file.delta_name();
        self.look_at(link).map_err(|error| self.failed("open", &name, error))?.map_err(|what| {
            let place = self.catalogue.links().iter().position(|other| other.file == link.file);
            StoreError::Gap(self.gap(place, name, what))
        })
    }

    /// The index of a link; none if there is none.
    ///
    /// # Errors
    ///
    /// When the file system fails.
    pub fn open_index(&self, link: FileId) -> Result<Option<Box<dyn StoredFile>>, StoreError> {
        self.open_if_there(&link.index_name())
    }

    /// A delta that is to be applied.
    ///
    /// # Errors
    ///
    /// When it is missing, or the file system fails.
    pub fn open_spool(&self, spool: FileId) -> Result<Box<dyn StoredFile>, StoreError> {
        let name = spool.spool_name();
        self.directory.open(&name).map_err(|error| self.failed("open", &name, error))
    }

    /// The links that cannot be passed because their file is missing or has another length, and the points that are lost with
    /// each; also that of what is under way. Only looks at lengths.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let links = self.catalogue.links().iter().enumerate().map(|(place, link)| (Some(place), link));
        let pending = self.catalogue.pending().and_then(Pending::inverse).map(|link| (None, link));
        let gaps = links.chain(pending).filter_map(|(place, link)| {
            let looked = self.look_at(link).unwrap_or_else(|error| Err(Missing::Unreadable(error.to_string())));
            looked.err().map(|what| self.gap(place, link.file.delta_name(), what))
        });
        gaps.collect()
    }

    /// Puts `next` in the place of the catalogue: the commit point of every change. Files that it no longer names are removed
    /// then.
    ///
    /// # Errors
    ///
    /// When `next` contradicts itself or names a file that is not there, nothing is changed. When the file system fails, either
    /// of both may be what a reader finds: nothing more can be saved until [`reload`](Self::reload) has found out.
    pub fn save(&mut self, next: Catalogue) -> Result<(), StoreError> {
        self.check_writable()?;
        let next = next.with_generation(self.catalogue.generation().saturating_add(1));
        let bytes = encode(&next)?;
        let before: HashSet<_> = self.catalogue.files().collect();
        let names_new_files = self.check_new_files(&next, &before)?;
        self.access = Access::Doubtful;
        self.write(&bytes, names_new_files)?;
        self.access = Access::Changes;
        let named: HashSet<_> = next.files().collect();
        self.next_file = self.next_file.max(next.next_file().0);
        self.catalogue = next;
        for gone in before.difference(&named) {
            // The change has come about; what stays is removed when the points are opened for changes the next time.
            let _ = self.remove_all(*gone);
        }
        Ok(())
    }

    /// Does a change: [`save`](Self::save) of what `change` makes of the catalogue.
    ///
    /// # Errors
    ///
    /// When the change cannot be made, and as `save`.
    pub fn change(
        &mut self,
        change: impl FnOnce(&Catalogue) -> Result<Catalogue, MoveError>,
    ) -> Result<(), StoreError> {
        let next = change(&self.catalogue)?;
        self.save(next)
    }

    fn load(directory: &dyn Directory) -> Result<(Catalogue, Copies), StoreError> {
        let place = directory.place();
        let file = match directory.open(CATALOGUE) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let names = directory.names().map_err(|error| failed(directory, "read", "the names", error))?;
                let lost = names.iter().any(|name| FileId::of_name(name).is_some());
                return Err(if lost { StoreError::Lost(place) } else { StoreError::Empty(place) });
            }
            Err(error) => return Err(failed(directory, "open", CATALOGUE, error)),
        };
        read(&*file).map_err(|source| match source {
            CatalogueError::Read(source) => failed(directory, "read", CATALOGUE, source),
            source => StoreError::Catalogue { place, source },
        })
    }

    /// Makes ready for changes what was just read.
    fn renew(&mut self) -> Result<(), StoreError> {
        self.access = Access::Doubtful;
        self.tidy()?;
        self.access = Access::Changes;
        match self.save(self.catalogue.clone()) {
            Err(StoreError::Io { source, .. }) if is_full(&source) => {
                // Points can still be dropped to make room.
                self.remove_if_there(NEW_CATALOGUE)?;
                self.sync()?;
                self.access = Access::Changes;
                Ok(())
            }
            other => other,
        }
    }

    /// Removes what the catalogue does not name and only we can have made.
    fn tidy(&self) -> Result<(), StoreError> {
        let named: HashSet<_> = self.catalogue.files().collect();
        let there = self.directory.names().map_err(|error| self.failed("read", "the names", error))?;
        let is_leftover = |name: &&String| {
            matches!(name.as_str(), NEW_CATALOGUE | NEW_TREE)
                || FileId::of_name(name).is_some_and(|file| !named.contains(&file))
                || point_of_tree(name).is_some_and(|point| self.catalogue.point(point).is_none())
        };
        let leftovers: Vec<_> = there.iter().filter(is_leftover).collect();
        for name in &leftovers {
            self.remove_if_there(name)?;
        }
        if leftovers.is_empty() { Ok(()) } else { self.sync() }
    }

    /// Writes a catalogue and puts it in the place of the one that is there.
    fn write(&self, bytes: &[u8], names_new_files: bool) -> Result<(), StoreError> {
        let mut file =
            self.directory.create(NEW_CATALOGUE).map_err(|error| self.failed("create", NEW_CATALOGUE, error))?;
        file.append(bytes).map_err(|error| self.failed("write", NEW_CATALOGUE, error))?;
        file.sync().map_err(|error| self.failed("sync", NEW_CATALOGUE, error))?;
        drop(file);
        if names_new_files {
            // A power loss must not keep the new name of the catalogue and lose the name of a file that it needs.
            self.sync()?;
        }
        let renamed = self.directory.rename(NEW_CATALOGUE, CATALOGUE);
        renamed.map_err(|error| self.failed("rename", NEW_CATALOGUE, error))?;
        self.sync()
    }

    /// Whether a catalogue names files that the present one does not. They must be there.
    fn check_new_files(&self, next: &Catalogue, before: &HashSet<FileId>) -> Result<bool, StoreError> {
        let links = next.links().iter().chain(next.pending().and_then(Pending::inverse));
        let new: Vec<_> = links.filter(|link| !before.contains(&link.file)).collect();
        for link in &new {
            let name = link.file.delta_name();
            if let Err(what) = self.look_at(link).map_err(|error| self.failed("open", &name, error))? {
                return Err(StoreError::Gap(Gap { link: None, name, what, unreachable: Vec::new() }));
            }
        }
        let spool = match next.pending() {
            Some(Pending::Apply(apply)) => match apply.source {
                DeltaSource::Spooled(file) => Some(file).filter(|file| !before.contains(file)),
                DeltaSource::Path(_) => None,
            },
            _ => None,
        };
        if let Some(file) = spool {
            self.open_spool(file)?;
        }
        Ok(!new.is_empty() || spool.is_some())
    }

    fn create_file(&mut self, name: fn(FileId) -> String) -> Result<(FileId, Box<dyn StoredFile>), StoreError> {
        self.check_writable()?;
        let file = FileId(self.next_file);
        self.next_file = self.next_file.checked_add(1).ok_or(MoveError::Full)?;
        let name = name(file);
        let created = self.directory.create(&name).map_err(|error| self.failed("create", &name, error))?;
        Ok((file, created))
    }

    /// Opens the file of a link, if it is as long as it should be; otherwise what is wrong with it. An error if the drive does
    /// not tell.
    fn look_at(&self, link: &Link) -> io::Result<Result<Box<dyn StoredFile>, Missing>> {
        let file = match self.directory.open(&link.file.delta_name()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(Missing::Gone)),
            // A directory, a symbolic link or a pipe.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Ok(Err(Missing::Unreadable(error.to_string())));
            }
            opened => opened?,
        };
        let (found, wanted) = (file.len()?, link.bytes.get());
        Ok(if found == wanted { Ok(file) } else { Err(Missing::Length { wanted, found }) })
    }

    fn gap(&self, link: Option<usize>, name: String, what: Missing) -> Gap {
        let points = self.catalogue.points();
        let beyond = match link {
            Some(link) if link < self.catalogue.present_index() => &points[..=link],
            Some(link) => &points[link + 1..],
            None => &[],
        };
        Gap { link, name, what, unreachable: beyond.iter().map(|point| point.id).collect() }
    }

    fn remove_all(&self, file: FileId) -> Result<(), StoreError> {
        [file.delta_name(), file.index_name(), file.spool_name()].iter().try_for_each(|name| self.remove_if_there(name))
    }

    fn remove_if_there(&self, name: &str) -> Result<(), StoreError> {
        match self.directory.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", name, error)),
            _ => Ok(()),
        }
    }

    fn open_if_there(&self, name: &str) -> Result<Option<Box<dyn StoredFile>>, StoreError> {
        match self.directory.open(name) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("open", name, error)),
        }
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        match self.access {
            Access::Changes => Ok(()),
            Access::Reading | Access::Doubtful => Err(StoreError::NotWritable(self.directory.place())),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.directory.sync().map_err(|error| self.failed("sync", "the names", error))
    }

    fn failed(&self, action: &'static str, name: &str, source: io::Error) -> StoreError {
        failed(&*self.directory, action, name, source)
    }
}

fn tree_name(PointId(point): PointId) -> String {
    format!("tree-{point:016x}.signature")
}

/// The point of a name that [`tree_name`] gave.
fn point_of_tree(name: &str) -> Option<PointId> {
    let digits = name.strip_prefix("tree-")?.get(..16)?;
    let point = PointId(u64::from_str_radix(digits, 16).ok()?);
    (tree_name(point) == name).then_some(point)
}

fn failed(directory: &dyn Directory, action: &'static str, name: &str, source: io::Error) -> StoreError {
    StoreError::Io { action, name: name.to_owned(), place: directory.place(), source }
}
