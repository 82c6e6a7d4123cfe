//! The first phase: the client says which export it wants, and how replies are to look.

use crate::error::{Breach, SessionError};
use crate::export::Export;
use crate::link::{Arrival, Link, Wait, in_memory};
use crate::options::{ContextQuery, InfoQuery};
use crate::wire::{self, BlockSizeInfo, ExportInfo, ExportReply, Greeting, OptionHeader, OptionReply};
use std::io::IoSlice;
use zerocopy::{FromBytes, IntoBytes};

/// What both sides have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Reads are answered in chunks.
    pub(crate) structured: bool,
    /// The client may ask for holes and data.
    pub(crate) block_status: bool,
}

/// What an option led to.
enum Next {
    /// The client may send another.
    Option,
    /// Transmission begins.
    Transmission,
    /// The client has left.
    Left,
}

/// Leads a client to transmission; `None` if it left before.
pub(crate) fn handshake(link: &mut Link<'_>, export: &Export<'_>) -> Result<Option<Agreed>, SessionError> {
    let greeting = Greeting {
        magic: wire::NBD_MAGIC.into(),
        style: wire::OPTION_MAGIC.into(),
        flags: (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES).into(),
    };
    match link.send(&mut [IoSlice::new(greeting.as_bytes())]) {
        // Somebody who only looked whether anybody is here.
        Err(SessionError::Gone) => return Ok(None),
        other => other?,
    }
    if link.arrival(size_of::<u32>(), Wait::Yes)? != Arrival::Here {
        return Ok(None);
    }
    let flags = u32::from_be_bytes(link.take());
    if flags & !(wire::CLIENT_FIXED_NEWSTYLE | wire::CLIENT_NO_ZEROES) != 0 {
        return Err(Breach::UnknownFlags(flags).into());
    }
    let no_zeroes = flags & wire::CLIENT_NO_ZEROES != 0;
    let mut haggling = Haggling { link, export, no_zeroes, agreed: Agreed::default() };
    loop {
        match haggling.next_option()? {
            Next::Option => {}
            Next::Transmission => return Ok(Some(haggling.agreed)),
            Next::Left => return Ok(None),
        }
    }
}

struct Haggling<'a, 'stream> {
    link: &'a mut Link<'stream>,
    export: &'a Export<'a>,
    no_zeroes: bool,
    agreed: Agreed,
}

impl Haggling<'_, '_> {
    fn next_option(&mut self) -> Result<Next, SessionError> {
        if self.link.arrival(size_of::<OptionHeader>(), Wait::Yes)? != Arrival::Here {
            return Ok(Next::Left);
        }
        let header: [u8; size_of::<OptionHeader>()] = self.link.take();
        let Ok(header) = OptionHeader::read_from_bytes(&header) else { unreachable!("it has that size") };
        if header.magic.get() != wire::OPTION_MAGIC {
            return Err(Breach::NotAnOption(header.magic.get()).into());
        }
        let (option, length) = (header.option.get(), header.length.get());
        if length > wire::MAX_OPTION {
            return Err(Breach::OptionTooLong { option, length }.into());
        }
        let mut data = vec![0; in_memory(length)];
        self.link.receive(&mut data)?;
        match option {
            wire::OPT_EXPORT_NAME => self.export_name(&data),
            wire::OPT_ABORT => {
                // The client may be gone already, which is no failure.
                let _ = self.reply(option, wire::REP_ACK, &[]);
                Ok(Next::Left)
            }
            wire::OPT_INFO | wire::OPT_GO => self.info(option, &data),
            wire::OPT_LIST_META_CONTEXT | wire::OPT_SET_META_CONTEXT => self.contexts(option, &data),
            wire::OPT_LIST if data.is_empty() => self.list(),
            wire::OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.agreed.structured = true;
                self.reply(option, wire::REP_ACK, &[])
            }
            wire::OPT_LIST | wire::OPT_STRUCTURED_REPLY => self.invalid(option, b"this option has no data"),
            _ => self.reply(option, wire::REP_ERR_UNSUP, b"this server does not have the option"),
        }
    }

    /// The old way into transmission, which has no error replies.
    fn export_name(&mut self, name: &[u8]) -> Result<Next, SessionError> {
        if !self.export.answers_to(name) {
            return Err(Breach::UnknownExport.into());
        }
        let reply = ExportReply { size: self.size().into(), flags: self.export.flags(self.agreed.structured).into() };
        let zeroes = [0; wire::ZEROES];
        let zeroes = if self.no_zeroes { &[][..] } else { &zeroes[..] };
        self.link.send(&mut [IoSlice::new(reply.as_bytes()), IoSlice::new(zeroes)])?;
        Ok(Next::Transmission)
    }

    fn list(&mut self) -> Result<Next, SessionError> {
        let name = self.export.name().as_bytes();
        // A name has at most 4096 bytes.
        let length = u32::try_from(name.len()).unwrap_or(0);
        self.reply(wire::OPT_LIST, wire::REP_SERVER, &[&length.to_be_bytes(), name].concat())?;
        self.reply(wire::OPT_LIST, wire::REP_ACK, &[])
    }

    fn info(&mut self, option: u32, data: &[u8]) -> Result<Next, SessionError> {
        let Some(query) = InfoQuery::parse(data) else {
            return self.invalid(option, b"the lengths in the option do not fit together");
        };
        if !self.export.answers_to(query.name) {
            return self.unknown(option);
        }
        let flags = self.export.flags(self.agreed.structured);
        let info = ExportInfo { info: wire::INFO_EXPORT.into(), size: self.size().into(), flags: flags.into() };
        self.reply(option, wire::REP_INFO, info.as_bytes())?;
        if query.asks_for(wire::INFO_NAME) {
            let info = [&wire::INFO_NAME.to_be_bytes(), self.export.name().as_bytes()].concat();
            self.reply(option, wire::REP_INFO, &info)?;
        }
        if query.asks_for(wire::INFO_BLOCK_SIZE) {
            let info = BlockSizeInfo {
                info: wire::INFO_BLOCK_SIZE.into(),
                minimum: wire::MINIMUM_BLOCK.into(),
                preferred: wire::PREFERRED_BLOCK.into(),
                maximum: wire::MAX_PAYLOAD.into(),
            };
            self.reply(option, wire::REP_INFO, info.as_bytes())?;
        }
        self.reply(option, wire::REP_ACK, &[])?;
        Ok(if option == wire::OPT_GO { Next::Transmission } else { Next::Option })
    }

    fn contexts(&mut self, option: u32, data: &[u8]) -> Result<Next, SessionError> {
        let sets = option == wire::OPT_SET_META_CONTEXT;
        if sets {
            // What was set before is gone, whatever comes of this.
            self.agreed.block_status = false;
            if !self.agreed.structured {
                return self.invalid(option, b"structured replies have to be agreed on first");
            }
        }
        let Some(query) = ContextQuery::parse(data) else {
            return self.invalid(option, b"the lengths in the option do not fit together");
        };
        if !self.export.answers_to(query.name) {
            return self.unknown(option);
        }
        if query.selects(sets) {
            self.agreed.block_status |= sets;
            let id = if sets { wire::CONTEXT_ID } else { 0 };
            self.reply(option, wire::REP_META_CONTEXT, &[&id.to_be_bytes(), wire::CONTEXT].concat())?;
        }
        self.reply(option, wire::REP_ACK, &[])
    }

    fn size(&self) -> u64 {
        self.export.device().size().get()
    }

    fn invalid(&mut self, option: u32, sentence: &[u8]) -> Result<Next, SessionError> {
        self.reply(option, wire::REP_ERR_INVALID, sentence)
    }

    fn unknown(&mut self, option: u32) -> Result<Next, SessionError> {
        self.reply(
            option,
            wire::REP_ERR_UNKNOWN,
            b"the export here has another name; the empty name is also one of its",
        )
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> Result<Next, SessionError> {
        // The longest holds a name.
        let length = u32::try_from(data.len()).unwrap_or(0);
        let magic = wire::REPLY_MAGIC.into();
        let header = OptionReply { magic, option: option.into(), kind: kind.into(), length: length.into() };
        self.link.send(&mut [IoSlice::new(header.as_bytes()), IoSlice::new(data)])?;
        Ok(Next::Option)
    }
}
