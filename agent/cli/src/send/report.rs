//! What is told of a pass.

use crate::report::Lines;
use failback_orchestrate::{HumanBytes, Proven, hex};
use failback_replication::{Alarm, GroupMark, PassReport};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A pass that was made.
pub(crate) struct Made {
    /// Its number, from 1.
    pub(crate) number: u64,
    pub(crate) is_last: bool,
    pub(crate) engine: &'static str,
    /// How the levels were chosen: adaptive, or one level.
    pub(crate) compression: String,
    pub(crate) report: PassReport,
    /// The mark of its group that was read.
    pub(crate) group_mark: Option<GroupMark>,
}

#[derive(Serialize)]
pub(crate) struct PassJson<'a> {
    pub(crate) pair: &'a str,
    pub(crate) disk: String,
    pass: u64,
    #[serde(rename = "final")]
    is_last: bool,
    base_root: String,
    root: String,
    kind: &'a str,
    coverage: &'a str,
    /// What the target has proven, as an apply says it.
    proven: &'a str,
    size: u64,
    created: i64,
    /// 32 hexadecimal digits; none if it is no pass of a group.
    group_mark: Option<String>,
    went_on: bool,
    bytes_read: u64,
    bytes_read_again: u64,
    bytes_hole: u64,
    bytes_free: u64,
    changed_blocks: u64,
    changed_bytes: u64,
    delta_bytes: u64,
    bytes_sent: u64,
    bytes_received: u64,
    bytes_sent_again: u64,
    connections: u64,
    compression: &'a str,
    /// Frames by level.
    compression_levels: Map<String, Value>,
    seconds: f64,
    seconds_sending: f64,
    bytes_per_second: u64,
    engine: &'a str,
}

impl Made {
    /// Bytes of the delta for each second in which the link was busy with it.
    fn rate(&self) -> u64 {
        let milliseconds = u64::try_from(self.report.sending.as_millis()).unwrap_or(u64::MAX).max(1);
        self.report.difference.delta.delta_bytes.saturating_mul(1000) / milliseconds
    }

    /// Which levels were used, each with its frames.
    fn levels(&self) -> impl Iterator<Item = (String, u64)> {
        let frames = self.report.frames.iter().copied().enumerate().filter(|(_, frames)| *frames > 0);
        frames.map(|(level, frames)| (if level == 0 { "off".to_owned() } else { level.to_string() }, frames))
    }

    fn changed_bytes(&self) -> u64 {
        let totals = self.report.difference.delta.totals;
        totals.data_bytes.saturating_add(totals.zero_bytes)
    }

    pub(crate) fn json<'a>(&'a self, pair: &'a str, disk: String) -> PassJson<'a> {
        let PassReport { difference, root, kind, created, went_on, .. } = &self.report;
        let delta = &difference.delta;
        PassJson {
            pair,
            disk,
            pass: self.number,
            is_last: self.is_last,
            base_root: delta.base_root.to_string(),
            root: root.to_string(),
            kind: kind.name(),
            coverage: delta.result_coverage.name(),
            proven: Proven::ChangedBlocks.name(),
            size: delta.shapes.result.size().get(),
            created: *created,
            group_mark: self.group_mark.map(|mark| hex(&mark.id)),
            went_on: *went_on,
            bytes_read: delta.scan.bytes_read,
            bytes_read_again: difference.read_again.bytes_read,
            bytes_hole: delta.scan.bytes_hole,
            bytes_free: delta.scan.bytes_free,
            changed_blocks: delta.changed_blocks,
            changed_bytes: self.changed_bytes(),
            delta_bytes: delta.delta_bytes,
            bytes_sent: self.report.sent,
            bytes_received: self.report.received,
            bytes_sent_again: self.report.sent_again,
            connections: self.report.connections,
            compression: &self.compression,
            compression_levels: self.levels().map(|(level, frames)| (level, frames.into())).collect(),
            seconds: self.report.took.as_secs_f64(),
            seconds_sending: self.report.sending.as_secs_f64(),
            bytes_per_second: self.rate(),
            engine: self.engine,
        }
    }

    pub(crate) fn lines(&self) -> Lines {
        let PassReport { difference, root, kind, .. } = &self.report;
        let delta = &difference.delta;
        let mut lines = Lines::default();
        lines.add(if self.is_last { "last pass" } else { "pass" }, self.number).add("root", root);
        lines.add("kind", kind).add("coverage", delta.result_coverage);
        lines.add("proven on the target", Proven::ChangedBlocks.name());
        if let Some(mark) = self.group_mark {
            lines.add("mark of the group", hex(&mark.id));
        }
        lines.bytes("read", delta.scan.bytes_read + difference.read_again.bytes_read);
        lines.bytes("free, not read", delta.scan.bytes_free).bytes("changed", self.changed_bytes());
        lines.bytes("delta", delta.delta_bytes).bytes("sent", self.report.sent).bytes("received", self.report.received);
        if self.report.sent_again > 0 || self.report.connections != 1 {
            lines.bytes("sent again", self.report.sent_again).add("connections", self.report.connections);
        }
        let levels: Vec<_> = self.levels().map(|(level, _)| level).collect();
        let used = if levels.is_empty() { "nothing to compress".to_owned() } else { levels.join(", ") };
        lines.add("compression", format!("{}: {used}", self.compression));
        let (seconds, sending) = (self.report.took.as_secs_f64(), self.report.sending.as_secs_f64());
        lines.add("time", format!("{seconds:.2} s, {sending:.2} s of it sending ({}/s)", HumanBytes(self.rate())));
        lines.add("engine", self.engine);
        lines
    }

    /// One line, for one pass of many.
    pub(crate) fn line(&self) -> String {
        format!(
            "pass {}: {} changed, {} sent in {:.1} s, {}, root {}",
            self.number,
            HumanBytes(self.changed_bytes()),
            HumanBytes(self.report.sent),
            self.report.took.as_secs_f64(),
            self.report.kind,
            self.report.root
        )
    }
}

/// What is told of an alarm: for people, and for programs.
pub(crate) fn alarm(alarm: Alarm, objective: Duration, pair: &str) -> (String, Value) {
    let (event, age) = match alarm {
        Alarm::Missed(age) => ("rpo-missed", age),
        Alarm::Kept(age) => ("rpo-kept", age),
    };
    let (age, rpo) = (age.as_secs(), objective.as_secs());
    let sentence = match alarm {
        Alarm::Missed(_) => format!(
            "the target of {pair} is {age} s old, and may be {rpo} s: look at the connection, the target, and how much changes"
        ),
        Alarm::Kept(_) => format!("the target of {pair} is {age} s old, and so within {rpo} s again"),
    };
    (sentence, json!({ "event": event, "pair": pair, "age_seconds": age, "rpo_seconds": rpo }))
}
