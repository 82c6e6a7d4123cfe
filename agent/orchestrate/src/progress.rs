//! How a job tells how far it is, and learns that it should stop.

/// Whoever watches a job. All methods may be called from several threads.
pub trait Progress: Sync {
    /// A new phase begins: what is being done, and to how many bytes; `None` where that is not known.
    fn phase(&self, what: &'static str, total: Option<u64>);

    /// So many more bytes of the phase are done.
    fn advance(&self, bytes: u64);

    /// Something that the user should know, in a sentence.
    fn note(&self, sentence: &str);

    /// Whether the user wants the job to stop at the next safe place.
    fn stop_requested(&self) -> bool;
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _: &'static str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        false
    }
}
