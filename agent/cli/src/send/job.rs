//! One pass, with all that belongs around it.

use super::args::{HowHard, SendArgs};
use super::files::Files;
use super::hooks::{Hook, Hooks};
use super::moment::Moment;
use super::report::Made;
use crate::compare::{check_unchanged, companions, free_of};
use crate::control::connector;
use crate::files;
use crate::meter::Meter;
use crate::text::with_causes;
use anyhow::Result;
use failback_orchestrate::{
    Compression, DiffOptions, DiskIdentity, Effort, Identity, JobError, Outcome, PointKind, Progress, SigningKey,
    SourceDisk, SourceOptions,
};
use failback_replication::{
    Adaptive, Backoff, Connector, Finish, GroupMark, Link, Marking, Meet, PassOptions, PassReport, SessionError,
    SystemClock, Throttle, meet, send_pass,
};
use failback_transport::Limits;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Without `--follow`.
const RETRY: Duration = Duration::from_secs(600);
/// How often a pass is begun again because target or source became others while it could not go on.
const BEGUN_AGAIN: u32 = 3;

/// What all passes have in common.
pub(crate) struct Job<'a> {
    args: &'a SendArgs,
    meter: &'a Meter,
    said: Once<'a>,
    hooks: Hooks,
    files: Files,
    connector: Held,
    signer: Option<SigningKey>,
    adaptive: Option<Adaptive>,
    made: u64,
}

/// A pass that was made, and whether what was done for it is taken back.
pub(crate) struct Passed {
    pub(crate) made: Made,
    pub(crate) taken_back: Result<(), JobError>,
}

impl<'a> Job<'a> {
    /// Looks at all that can be looked at before the source is read.
    pub(crate) fn new(args: &'a SendArgs, meter: &'a Meter) -> Result<Self> {
        let clock = Arc::new(SystemClock::default());
        let signer = args.signing_key.as_deref().map(files::signing_key).transpose()?;
        let hooks = Hooks::open(args.hooks.as_deref(), args.hook_timeout)?;
        let usual = Limits::default();
        let limits = Limits { silence: args.silence.unwrap_or(usual.silence), ..usual };
        let connector = connector(&args.to, &args.connect, limits)?;
        let throttle = args.limit.clone().map(|schedule| Throttle::new(schedule, clock.clone()));
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
        let adaptive = (args.compression == HowHard::Adaptive).then(|| Adaptive::new(clock, threads));
        let files = Files::open(&args.journal, &args.pair, &args.to.to_string())?;
        if args.anew {
            files.begin_anew()?;
        }
        let said = Once { meter, said: Mutex::default() };
        let connector = Held { connector, throttle };
        Ok(Self { args, meter, said, hooks, files, connector, signer, adaptive, made: 0 })
    }

    /// Refuses a last pass that could not be one, as far as that is known before anything is sent.
    pub(crate) fn check_last(&self) -> Result<(), JobError> {
        if !self.args.last || self.hooks.may_bring_to_rest() {
            return Ok(());
        }
        refuse_moving(&SourceDisk::open(&self.args.disk, self.source_options())?)
    }

    /// Takes back what an earlier run could not take back, since it was killed.
    pub(crate) fn take_back_mark(&self) -> Result<(), JobError> {
        let Some(device) = self.files.left_mark() else { return Ok(()) };
        if !self.has_hook(Hook::Unmark) && !self.has_hook(Hook::Release) {
            return Err(JobError::Refused(format!(
                "an earlier run was killed while the mark '{}' was there: give its --hooks, so that unmark takes it back",
                device.escape_debug()
            )));
        }
        let released = self.hook(Hook::Release, false, &[]);
        self.unmark(false, &device)?;
        released?;
        self.end_mark()
    }

    /// Makes a pass.
    pub(crate) fn pass(&mut self, is_last: bool) -> Result<Passed> {
        let (before, after) =
            if is_last { (Hook::BeforeFinal, Hook::AfterFinal) } else { (Hook::BeforePass, Hook::AfterPass) };
        self.hooks.run(before, &self.environment(is_last), self.meter)?;
        let outcome = self.marked(is_last);
        let mut environment = self.environment(is_last);
        let word = if outcome.is_ok() { "done" } else { "failed" };
        environment.push(("FAILBACK_OUTCOME", word.into()));
        let root = outcome.as_ref().map_or_else(|_| String::new(), |passed| passed.made.report.root.to_string());
        environment.push(("FAILBACK_ROOT", root.into()));
        if let Err(error) = self.hooks.run(after, &environment, self.meter) {
            self.meter.note(&error.to_string());
        }
        if outcome.is_ok() {
            self.made += 1;
        }
        outcome
    }

    /// Makes a pass of a moment, and lets go what was brought to rest or marked for it in any case.
    fn marked(&self, is_last: bool) -> Result<Passed> {
        let begun = files::now();
        let mut moment = Moment::new(self, is_last);
        let outcome = self.of_moment(&mut moment, is_last, begun);
        let taken_back = moment.let_go();
        match outcome {
            Ok(made) => Ok(Passed { made, taken_back }),
            Err(error) => match taken_back {
                Ok(()) => Err(error),
                // A disk that is still at rest, or a snapshot that is still there, is what somebody has to see to first.
                Err(not_taken_back) => {
                    self.meter.note(&with_causes(error.as_ref()));
                    Err(not_taken_back.into())
                }
            },
        }
    }

    fn of_moment(&self, moment: &mut Moment<'_, '_>, is_last: bool, begun: i64) -> Result<Made> {
        let group_mark = if let Some(group) = self.args.group.as_ref().filter(|_| is_last) {
            let disk = SourceDisk::open(&self.args.disk, SourceOptions { fuzzy: true, ..self.source_options() })?;
            let mut identity = Identity::default();
            name_as(&mut identity, disk.identity());
            drop(disk);
            let who = Meet::new(group, &self.args.pair, &identity);
            Some(meet(&self.connector, &who, moment, &self.backoff(), self.meter)?)
        } else {
            moment.quiesce()?;
            moment.mark()?;
            None
        };
        // It is tried again once the pass is there.
        if let Err(error) = moment.release_early() {
            self.meter.note(&error.to_string());
        }
        self.read(is_last, moment, begun, group_mark)
    }

    /// Runs a hook, if there is one. Returns the first line that it printed.
    pub(crate) fn hook(
        &self,
        hook: Hook,
        is_last: bool,
        more: &[(&'static str, OsString)],
    ) -> Result<Option<String>, JobError> {
        let mut environment = self.environment(is_last);
        environment.extend_from_slice(more);
        self.hooks.run(hook, &environment, self.meter)
    }

    pub(crate) fn has_hook(&self, hook: Hook) -> bool {
        self.hooks.has(hook)
    }

    pub(crate) fn disk(&self) -> &Path {
        &self.args.disk
    }

    pub(crate) const fn said(&self) -> &Once<'a> {
        &self.said
    }

    /// Remembers what will have to be taken back, if a hook brings anything to rest or makes a mark.
    pub(crate) fn begin_mark(&self, device: &str) -> Result<(), JobError> {
        if self.has_hook(Hook::Mark) || self.has_hook(Hook::Quiesce) { self.files.begin_mark(device) } else { Ok(()) }
    }

    pub(crate) fn end_mark(&self) -> Result<(), JobError> {
        if self.files.left_mark().is_some() { self.files.end_mark() } else { Ok(()) }
    }

    pub(crate) fn unmark(&self, is_last: bool, device: &str) -> Result<(), JobError> {
        self.hook(Hook::Unmark, is_last, &[("FAILBACK_MARK", device.into())]).map(drop)
    }

    /// Reads a moment of the disk, and sends what differs.
    fn read(&self, is_last: bool, moment: &Moment<'_, '_>, begun: i64, group_mark: Option<GroupMark>) -> Result<Made> {
        let (args, options, source) = (self.args, self.source_options(), moment.source());
        let companions = companions(&args.reading.with, options, &self.said)?;
        let content = source.content(&companions);
        let free = free_of(source, &content, &args.reading, &self.said);
        let (mut identity, mut kind) = (source.identity_with(&content), source.kind());
        name_as(&mut identity, moment.disk());
        if moment.snapshot().is_some() && kind != PointKind::Fuzzy {
            kind = args.mark_kind.into();
        }
        let effort: &dyn Effort = match &args.compression {
            HowHard::Adaptive => &Compression::LIGHTEST,
            HowHard::Fixed(compression) => compression,
        };
        let mut options = PassOptions {
            pair: args.pair.clone(),
            diff: DiffOptions {
                free,
                kind,
                created: group_mark.map_or(begun, |mark| mark.time),
                id: [0; 16],
                identity,
                compression: effort,
                threads: args.reading.threads,
                signer: self.signer.as_ref(),
                before_end: &|| check_unchanged(source, &companions),
            },
            adaptive: self.adaptive.as_ref(),
            backoff: self.backoff(),
            // Whoever begins the last pass of a group again takes another mark.
            journal: group_mark.is_none().then(|| self.files.journal()),
            moment: source.moment(),
            // What is told after a pass, and how old the target is, is told of its disk.
            finish: Finish::Applied,
            mark: group_mark.map(|mark| mark.id),
        };
        let report = self.send(source, &mut options)?;
        let compression = match args.compression {
            HowHard::Adaptive => "adaptive".to_owned(),
            HowHard::Fixed(compression) => compression.to_string(),
        };
        let engine = source.device().engine();
        Ok(Made { number: self.made + 1, is_last, engine, compression, report, group_mark })
    }

    /// Sends until it is done. What began from something that is no more is begun again.
    fn send(&self, source: &SourceDisk, options: &mut PassOptions<'_>) -> Result<PassReport> {
        let mut again = 0;
        loop {
            options.diff.id = files::random()?;
            match send_pass(&self.connector, source.device(), options, self.meter) {
                Err(SessionError::Changed(why)) if again < BEGUN_AGAIN => {
                    again += 1;
                    self.meter.note(&format!("{why}; it is begun again now"));
                }
                Err(error) => {
                    if error.is_link() || error.outcome() == Outcome::Interrupted {
                        self.meter.note("the pass is unfinished; the same command goes on where the target has it");
                    }
                    return Err(error.into());
                }
                Ok(report) => return Ok(report),
            }
        }
    }

    fn backoff(&self) -> Backoff {
        let usual = if self.args.follow.is_some() { Duration::MAX } else { RETRY };
        Backoff { attempts: u32::MAX, patience: self.args.retry.unwrap_or(usual), ..Backoff::default() }
    }

    pub(crate) fn source_options(&self) -> SourceOptions {
        SourceOptions { engine: self.args.common.engine.into(), fuzzy: self.args.fuzzy }
    }

    fn environment(&self, is_last: bool) -> Vec<(&'static str, OsString)> {
        vec![
            ("FAILBACK_PAIR", self.args.pair.clone().into()),
            ("FAILBACK_DISK", self.args.disk.clone().into()),
            ("FAILBACK_FINAL", if is_last { "1" } else { "0" }.into()),
            ("FAILBACK_GROUP", self.args.group.clone().filter(|_| is_last).unwrap_or_default().into()),
        ]
    }
}

/// A disk that somebody may write to while it is read has no moment.
pub(crate) fn refuse_moving(source: &SourceDisk) -> Result<(), JobError> {
    let Some(writer) = source.writers().first() else { return Ok(()) };
    Err(JobError::Refused(format!(
        "{} is {writer}, so a last pass of it would be no moment of its life: unmount it or mount it read-only, let the hook before-final do \
         so, or let the hook mark name a snapshot of it",
        source.identity().path.display()
    )))
}

/// Refuses what cannot be a mark of a disk.
pub(crate) fn check_mark(mark: &Path, found: &DiskIdentity, disk: &DiskIdentity) -> Result<(), JobError> {
    if found.size == disk.size {
        return Ok(());
    }
    Err(JobError::Refused(format!(
        "the hook mark named {}, which has {} bytes, and {} has {}: let it name a snapshot of the whole disk",
        mark.display(),
        found.size,
        disk.path.display(),
        disk.size
    )))
}

/// A disk is sent under its name from the root directory on, and a mark under that of its disk: that is what the target knows.
fn name_as(identity: &mut Identity, disk: &DiskIdentity) {
    let path = std::path::absolute(&disk.path).unwrap_or_else(|_| disk.path.clone());
    identity.name = Some(path.to_string_lossy().into_owned());
    identity.scsi_uuid = disk.scsi_uuid.map(|uuid| *uuid.as_bytes());
}

/// A connector whose connections are held to a limit, if there is one.
struct Held {
    connector: Box<dyn Connector>,
    throttle: Option<Throttle>,
}

impl Connector for Held {
    fn connect(&self) -> io::Result<Link> {
        let link = self.connector.connect()?;
        Ok(match &self.throttle {
            Some(throttle) => throttle.hold(link),
            None => link,
        })
    }
}

/// Says everything once: what is so in one pass is so in the next one.
pub(crate) struct Once<'a> {
    meter: &'a Meter,
    said: Mutex<BTreeSet<String>>,
}

impl Progress for Once<'_> {
    fn phase(&self, what: &'static str, total: Option<u64>) {
        self.meter.phase(what, total);
    }

    fn advance(&self, bytes: u64) {
        self.meter.advance(bytes);
    }

    fn note(&self, sentence: &str) {
        if self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(sentence.to_owned()) {
            self.meter.note(sentence);
        }
    }

    fn stop_requested(&self) -> bool {
        self.meter.stop_requested()
    }
}
