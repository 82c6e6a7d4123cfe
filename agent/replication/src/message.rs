//! What the two sides say to each other.

use crate::SessionError;
use crate::wire::{
    DATA_MAX, GROUP_MAX, MAP_MAX, PAIR_MAX, RUNS_MAX, RawAccept, RawEnd, RawMeet, RawOffer, RawProgress, RawQuestion,
    RawRelease, RawRun, SENTENCE_MAX, SOURCE_MAX, VALUES_MAX, kind,
};
use failback_delta::{Coverage, DeltaHeader, Identity, PointKind};
use failback_hashtree::{ChainingValue, Root};
use failback_orchestrate::NodeRun;
use failback_units::{BlockIndex, BlockSize, ByteCount};
use std::borrow::Cow;
use zerocopy::{FromBytes, IntoBytes};

/// What a source offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The name of the replication pair: 1 to 64 bytes.
    pub pair: String,
    /// The SCSI UUID of the source, if it shows one.
    pub scsi_uuid: Option<[u8; 16]>,
    /// The name that the source has where it is: at most 255 bytes, perhaps none.
    pub source: String,
    /// The source's size.
    pub size: ByteCount,
    /// Which bytes of it count.
    pub coverage: Coverage,
    /// What moment it is from.
    pub kind: PointKind,
    /// The delta that is to go on.
    pub resumed: Option<Resumed>,
    /// The mark of a group that it was read at: it is applied with those of the others of the group, or not at all.
    pub mark: Option<[u8; 16]>,
}

/// Who wants to take part in the common mark of a protection group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meet {
    /// The name of the group: 1 to 64 bytes.
    pub group: String,
    /// The name of the replication pair: 1 to 64 bytes.
    pub pair: String,
    /// The SCSI UUID of the source, if it shows one.
    pub scsi_uuid: Option<[u8; 16]>,
    /// The name that the source has where it is: at most 255 bytes, perhaps none.
    pub source: String,
}

/// A mark that all of a group have taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMark {
    /// Random; the offers of its passes bear it.
    pub id: [u8; 16],
    /// When it was taken, in seconds since 1970 by the target's clock.
    pub time: i64,
}

/// A delta that was sent in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The hash of its header.
    pub delta: [u8; 32],
    /// The source can go on from the end of any part up to here.
    pub until: u64,
}

/// What a target says of its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    /// The base's size.
    pub(crate) size: ByteCount,
    /// The block size of its tree.
    pub(crate) block_size: BlockSize,
    /// Which bytes of it count.
    pub(crate) coverage: Coverage,
    /// Its root.
    pub(crate) root: Root,
    /// The hash of its map.
    pub(crate) map: [u8; 32],
    /// Bytes of the delta that are durable here.
    pub(crate) durable: u64,
    /// Whether this is a relay: what it has of a delta, the disk does not have yet.
    pub(crate) relayed: bool,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Offer(Offer),
    AskMap,
    AskValues { id: u32, runs: Cow<'a, [NodeRun]> },
    Data { at: u64, bytes: Cow<'a, [u8]> },
    End { len: u64, root: Root },
    Progress { compared: u64, total: u64 },
    Meet(Meet),
    Quiesced,
    Marked,
    Quiesce,
    Mark,
    Release(GroupMark),
    Waits(Cow<'a, str>),
    Accept(Accept),
    Map { last: bool, packed: Cow<'a, [u8]> },
    Values { id: u32, values: Cow<'a, [ChainingValue]> },
    Durable { len: u64 },
    Done { root: Root },
    Stored { root: Root },
    Alive,
    Refuse(Cow<'a, str>),
}

const BREACH: SessionError = SessionError::Breach("a message is not as its kind has to be");

impl Message<'_> {
    /// The greatest length of a message of some kind.
    pub(crate) const fn limit(code: u8) -> Result<usize, SessionError> {
        Ok(match code {
            kind::OFFER => size_of::<RawOffer>() + PAIR_MAX + SOURCE_MAX,
            kind::ASK_VALUES => size_of::<RawQuestion>() + size_of::<RawRun>() * RUNS_MAX as usize,
            kind::DATA => 8 + DATA_MAX,
            kind::END => size_of::<RawEnd>(),
            kind::PROGRESS => size_of::<RawProgress>(),
            kind::ACCEPT => size_of::<RawAccept>(),
            kind::MAP => 1 + MAP_MAX,
            kind::VALUES => crate::wire::MESSAGE_MAX,
            kind::DURABLE => 8,
            kind::DONE | kind::STORED => 32,
            kind::MEET => size_of::<RawMeet>() + GROUP_MAX + PAIR_MAX + SOURCE_MAX,
            kind::RELEASE => size_of::<RawRelease>(),
            kind::ASK_MAP | kind::ALIVE | kind::QUIESCED | kind::MARKED | kind::QUIESCE | kind::MARK => 0,
            kind::REFUSE | kind::WAITS => SENTENCE_MAX,
            _ => return Err(SessionError::Breach("there is no such kind of message")),
        })
    }

    /// The kind, and the bytes that follow the head.
    pub(crate) fn to_bytes(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Offer(offer) => (kind::OFFER, offer.to_bytes()),
            Self::AskMap => (kind::ASK_MAP, Vec::new()),
            Self::AskValues { id, runs } => {
                let raw: Vec<_> = runs.iter().map(raw_run).collect();
                (kind::ASK_VALUES, [question(*id, raw.len()).as_bytes(), raw.as_bytes()].concat())
            }
            Self::Data { at, bytes } => (kind::DATA, [&at.to_le_bytes(), &**bytes].concat()),
            Self::End { len, root } => (kind::END, RawEnd { len: (*len).into(), root: root.0 }.as_bytes().to_vec()),
            Self::Progress { compared, total } => {
                let raw = RawProgress { compared: (*compared).into(), total: (*total).into() };
                (kind::PROGRESS, raw.as_bytes().to_vec())
            }
            Self::Accept(accept) => (kind::ACCEPT, accept.to_bytes()),
            Self::Map { last, packed } => (kind::MAP, [&[u8::from(*last)], &**packed].concat()),
            Self::Values { id, values } => {
                let head = question(*id, values.len());
                let bytes = values.iter().flat_map(|value| value.0);
                (kind::VALUES, head.as_bytes().iter().copied().chain(bytes).collect())
            }
            Self::Durable { len } => (kind::DURABLE, len.to_le_bytes().to_vec()),
            Self::Done { root } => (kind::DONE, root.0.to_vec()),
            Self::Stored { root } => (kind::STORED, root.0.to_vec()),
            Self::Meet(meet) => (kind::MEET, meet.to_bytes()),
            Self::Quiesced => (kind::QUIESCED, Vec::new()),
            Self::Marked => (kind::MARKED, Vec::new()),
            Self::Quiesce => (kind::QUIESCE, Vec::new()),
            Self::Mark => (kind::MARK, Vec::new()),
            Self::Release(mark) => {
                (kind::RELEASE, RawRelease { mark: mark.id, time: mark.time.into() }.as_bytes().to_vec())
            }
            Self::Waits(sentence) => (kind::WAITS, cut(sentence, SENTENCE_MAX).as_bytes().to_vec()),
            Self::Alive => (kind::ALIVE, Vec::new()),
            Self::Refuse(sentence) => (kind::REFUSE, cut(sentence, SENTENCE_MAX).as_bytes().to_vec()),
        }
    }

    /// A message from its bytes, whose number is within [`limit`](Self::limit).
    pub(crate) fn from_bytes(code: u8, bytes: &[u8]) -> Result<Message<'static>, SessionError> {
        Ok(match code {
            kind::OFFER => Message::Offer(Offer::from_bytes(bytes)?),
            kind::ASK_MAP => Message::AskMap,
            kind::ASK_VALUES => {
                let (head, rest) = start::<RawQuestion>(bytes)?;
                let raw = <[RawRun]>::ref_from_bytes(rest).map_err(|_| BREACH)?;
                let runs = raw.iter().map(node_run).collect::<Result<Vec<_>, _>>()?;
                let values = runs.iter().fold(0_u64, |sum, run| sum.saturating_add(run.count));
                if raw.len() != head.count.get() as usize || !(1..=u64::from(VALUES_MAX)).contains(&values) {
                    return Err(BREACH);
                }
                Message::AskValues { id: head.id.get(), runs: runs.into() }
            }
            kind::DATA => {
                let (at, rest) = bytes.split_first_chunk().filter(|(_, rest)| !rest.is_empty()).ok_or(BREACH)?;
                Message::Data { at: u64::from_le_bytes(*at), bytes: rest.to_vec().into() }
            }
            kind::END => {
                let end: RawEnd = whole(bytes)?;
                Message::End { len: end.len.get(), root: Root(end.root) }
            }
            kind::PROGRESS => {
                let raw: RawProgress = whole(bytes)?;
                Message::Progress { compared: raw.compared.get(), total: raw.total.get() }
            }
            kind::ACCEPT => Message::Accept(Accept::from_bytes(bytes)?),
            kind::MAP => {
                let (last, packed) = bytes.split_first().filter(|(last, _)| **last <= 1).ok_or(BREACH)?;
                Message::Map { last: *last == 1, packed: packed.to_vec().into() }
            }
            kind::VALUES => {
                let (head, rest) = start::<RawQuestion>(bytes)?;
                let (values, more) = rest.as_chunks::<32>();
                if !more.is_empty() || values.len() != head.count.get() as usize {
                    return Err(BREACH);
                }
                let values: Vec<_> = values.iter().map(|value| ChainingValue(*value)).collect();
                Message::Values { id: head.id.get(), values: values.into() }
            }
            kind::DURABLE => Message::Durable { len: u64::from_le_bytes(bytes.try_into().map_err(|_| BREACH)?) },
            kind::DONE => Message::Done { root: Root(bytes.try_into().map_err(|_| BREACH)?) },
            kind::STORED => Message::Stored { root: Root(bytes.try_into().map_err(|_| BREACH)?) },
            kind::MEET => Message::Meet(Meet::from_bytes(bytes)?),
            kind::QUIESCED => Message::Quiesced,
            kind::MARKED => Message::Marked,
            kind::QUIESCE => Message::Quiesce,
            kind::MARK => Message::Mark,
            kind::RELEASE => {
                let raw: RawRelease = whole(bytes)?;
                let mark = GroupMark { id: raw.mark, time: raw.time.get() };
                Message::Release(Some(mark).filter(|mark| mark.id != [0; 16]).ok_or(BREACH)?)
            }
            kind::WAITS => Message::Waits(sentence(bytes).into()),
            kind::ALIVE => Message::Alive,
            kind::REFUSE => Message::Refuse(sentence(bytes).into()),
            _ => return Err(SessionError::Breach("there is no such kind of message")),
        })
    }
}

impl Offer {
    /// The offer of a new delta.
    pub(crate) fn new(pair: &str, identity: &Identity, size: ByteCount, coverage: Coverage, kind: PointKind) -> Self {
        let source = identity.name.clone().unwrap_or_default().replace(char::is_control, " ");
        let scsi_uuid = identity.scsi_uuid;
        Self { pair: pair.into(), scsi_uuid, source, size, coverage, kind, resumed: None, mark: None }
    }

    /// The offer of a delta that begins with this header.
    pub(crate) fn of(pair: &str, header: &DeltaHeader, resumed: Option<Resumed>) -> Self {
        let size = header.shapes.result.size();
        let offer = Self::new(pair, &header.identity, size, header.result_coverage, header.kind);
        Self { resumed, ..offer }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let (pair, source) = (cut(&self.pair, PAIR_MAX), cut(&self.source, SOURCE_MAX));
        let raw = RawOffer {
            size: self.size.get().into(),
            pair_len: u8::try_from(pair.len()).expect("it was cut"),
            coverage: self.coverage.code(),
            kind: self.kind.code(),
            source_len: u8::try_from(source.len()).expect("it was cut"),
            scsi_uuid: self.scsi_uuid.unwrap_or_default(),
            delta: self.resumed.map_or([0; 32], |resumed| resumed.delta),
            until: self.resumed.map_or(0, |resumed| resumed.until).into(),
            mark: self.mark.unwrap_or_default(),
        };
        [raw.as_bytes(), pair.as_bytes(), source.as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SessionError> {
        let (raw, names) = start::<RawOffer>(bytes)?;
        let (pair, source) = names.split_at_checked(raw.pair_len.into()).ok_or(BREACH)?;
        if pair.is_empty() || source.len() != raw.source_len.into() {
            return Err(BREACH);
        }
        let resumed = Resumed { delta: raw.delta, until: raw.until.get() };
        Ok(Self {
            pair: name(pair)?,
            scsi_uuid: (raw.scsi_uuid != [0; 16]).then_some(raw.scsi_uuid),
            source: name(source)?,
            size: ByteCount::new(raw.size.get()).ok_or(BREACH)?,
            coverage: Coverage::from_code(raw.coverage).ok_or(BREACH)?,
            kind: PointKind::from_code(raw.kind).ok_or(BREACH)?,
            resumed: (resumed.delta != [0; 32]).then_some(resumed),
            mark: (raw.mark != [0; 16]).then_some(raw.mark),
        })
    }
}

impl Meet {
    /// Of a source.
    #[must_use]
    pub fn new(group: &str, pair: &str, identity: &Identity) -> Self {
        let source = identity.name.clone().unwrap_or_default().replace(char::is_control, " ");
        Self { group: group.into(), pair: pair.into(), scsi_uuid: identity.scsi_uuid, source }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let names = [cut(&self.group, GROUP_MAX), cut(&self.pair, PAIR_MAX), cut(&self.source, SOURCE_MAX)];
        let [group_len, pair_len, source_len] = names.map(|name| u8::try_from(name.len()).expect("it was cut"));
        let scsi_uuid = self.scsi_uuid.unwrap_or_default();
        let raw = RawMeet { group_len, pair_len, source_len, reserved: [0; 5], scsi_uuid };
        [raw.as_bytes(), names.concat().as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SessionError> {
        let (raw, names) = start::<RawMeet>(bytes)?;
        let (group, names) = names.split_at_checked(raw.group_len.into()).ok_or(BREACH)?;
        let (pair, source) = names.split_at_checked(raw.pair_len.into()).ok_or(BREACH)?;
        let fits = group.len() <= GROUP_MAX && pair.len() <= PAIR_MAX && source.len() == raw.source_len.into();
        if !fits || group.is_empty() || pair.is_empty() || raw.reserved != [0; 5] {
            return Err(BREACH);
        }
        let scsi_uuid = (raw.scsi_uuid != [0; 16]).then_some(raw.scsi_uuid);
        Ok(Self { group: name(group)?, pair: name(pair)?, scsi_uuid, source: name(source)? })
    }
}

impl Accept {
    fn to_bytes(self) -> Vec<u8> {
        let raw = RawAccept {
            size: self.size.get().into(),
            block_shift: self.block_size.shift(),
            coverage: self.coverage.code(),
            relayed: self.relayed.into(),
            reserved: [0; 5],
            root: self.root.0,
            map: self.map,
            durable: self.durable.into(),
        };
        raw.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SessionError> {
        let raw: RawAccept = whole(bytes)?;
        if raw.reserved != [0; 5] || raw.relayed > 1 {
            return Err(BREACH);
        }
        Ok(Self {
            size: ByteCount::new(raw.size.get()).ok_or(BREACH)?,
            block_size: BlockSize::from_shift(raw.block_shift).ok_or(BREACH)?,
            coverage: Coverage::from_code(raw.coverage).ok_or(BREACH)?,
            root: Root(raw.root),
            map: raw.map,
            durable: raw.durable.get(),
            relayed: raw.relayed == 1,
        })
    }
}

/// What is printed: nothing in it may move a cursor or begin a line.
fn sentence(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// A name that may be printed.
fn name(bytes: &[u8]) -> Result<String, SessionError> {
    let name = std::str::from_utf8(bytes).ok().filter(|name| !name.contains(char::is_control));
    name.map(str::to_owned).ok_or(BREACH)
}

fn question(id: u32, count: usize) -> RawQuestion {
    RawQuestion { id: id.into(), count: u32::try_from(count).expect("questions are short").into() }
}

fn raw_run(run: &NodeRun) -> RawRun {
    let count = u32::try_from(run.count).expect("questions are short");
    RawRun { first: run.first.get().into(), count: count.into(), level: run.level, reserved: [0; 3] }
}

fn node_run(raw: &RawRun) -> Result<NodeRun, SessionError> {
    if raw.reserved != [0; 3] || raw.count.get() == 0 {
        return Err(BREACH);
    }
    Ok(NodeRun { first: BlockIndex::new(raw.first.get()), level: raw.level, count: raw.count.get().into() })
}

fn start<T: FromBytes>(bytes: &[u8]) -> Result<(T, &[u8]), SessionError> {
    T::read_from_prefix(bytes).map_err(|_| BREACH)
}

fn whole<T: FromBytes>(bytes: &[u8]) -> Result<T, SessionError> {
    T::read_from_bytes(bytes).map_err(|_| BREACH)
}

/// The longest start of `text` that has at most `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn examples() -> Vec<Message<'static>> {
        let run = NodeRun { first: BlockIndex::new(1 << 40), level: 9, count: 77 };
        let size = ByteCount::new(1 << 41).unwrap();
        let (coverage, kind) = (Coverage::Used, PointKind::Fuzzy);
        let (pair, source) = ("web-01 ü".into(), "/dev/nvme1n1".into());
        let offer = Offer { pair, scsi_uuid: Some([8; 16]), source, size, coverage, kind, resumed: None, mark: None };
        let resumed = Some(Resumed { delta: [7; 32], until: 99 });
        let block_size = BlockSize::MIN;
        let accept =
            Accept { size, block_size, coverage, root: Root([1; 32]), map: [2; 32], durable: 3, relayed: true };
        vec![
            Message::Offer(offer.clone()),
            Message::Offer(Offer {
                resumed,
                scsi_uuid: None,
                source: String::new(),
                mark: Some([6; 16]),
                ..offer.clone()
            }),
            Message::Meet(Meet { group: "shop".into(), pair: offer.pair, scsi_uuid: None, source: offer.source }),
            Message::Quiesced,
            Message::Marked,
            Message::Quiesce,
            Message::Mark,
            Message::Release(GroupMark { id: [3; 16], time: -5 }),
            Message::Waits("for db".into()),
            Message::AskMap,
            Message::AskValues { id: 5, runs: vec![run, run].into() },
            Message::Data { at: 1 << 50, bytes: vec![1; DATA_MAX].into() },
            Message::End { len: 12, root: Root([4; 32]) },
            Message::Progress { compared: 5, total: u64::MAX },
            Message::Accept(accept),
            Message::Map { last: true, packed: vec![3; MAP_MAX].into() },
            Message::Values { id: 6, values: vec![ChainingValue([9; 32]); 4096].into() },
            Message::Durable { len: u64::MAX },
            Message::Done { root: Root([5; 32]) },
            Message::Stored { root: Root([6; 32]) },
            Message::Alive,
            Message::Refuse("no".into()),
        ]
    }

    #[test]
    fn what_is_said_is_understood() {
        for message in examples() {
            let (code, bytes) = message.to_bytes();
            assert!(bytes.len() <= Message::limit(code).unwrap(), "{code}");
            assert_eq!(Message::from_bytes(code, &bytes).unwrap(), message);
        }
    }

    #[test]
    fn no_start_of_a_message_is_another_one() {
        for message in examples() {
            let (code, bytes) = message.to_bytes();
            for len in (0..bytes.len()).step_by(1 + bytes.len() / 300) {
                if let Ok(other) = Message::from_bytes(code, &bytes[..len]) {
                    // Only what is bytes to the end may be cut anywhere.
                    assert!(
                        matches!(
                            other,
                            Message::Data { .. } | Message::Map { .. } | Message::Refuse(_) | Message::Waits(_)
                        ),
                        "{other:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_sentence_cannot_move_the_cursor() {
        let Message::Refuse(sentence) = Message::from_bytes(kind::REFUSE, b"a\x1b[2J\r\n\xff").unwrap() else {
            panic!()
        };
        assert_eq!(sentence, "a [2J  \u{fffd}");
    }

    proptest! {
        #[test]
        fn anything_is_answered(code in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if bytes.len() <= Message::limit(code).unwrap_or(0)
                && let Ok(message) = Message::from_bytes(code, &bytes)
            {
                // What is understood is said again in the same words; a sentence was cleaned.
                if !matches!(message, Message::Refuse(_) | Message::Waits(_)) {
                    prop_assert_eq!(message.to_bytes(), (code, bytes));
                }
            }
        }
    }
}
