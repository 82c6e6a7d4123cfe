//! The data of options: strings and numbers, with lengths that need not fit together.

use crate::wire;

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InfoQuery<'data> {
    /// The export that is asked for.
    pub(crate) name: &'data [u8],
    /// Numbers of 16 bits.
    facts: &'data [u8],
}

impl<'data> InfoQuery<'data> {
    /// `None` if the lengths contradict each other.
    pub(crate) fn parse(data: &'data [u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = usize::from(u16::from_be_bytes(fields.array()?));
        let facts = fields.bytes(count * 2)?;
        fields.0.is_empty().then_some(Self { name, facts })
    }

    /// Whether a fact is asked for.
    pub(crate) fn asks_for(&self, fact: u16) -> bool {
        self.facts.chunks_exact(2).any(|asked| asked == fact.to_be_bytes())
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContextQuery<'data> {
    /// The export that is asked about.
    pub(crate) name: &'data [u8],
    /// How many queries there are.
    count: u32,
    /// Whether one of them names the context.
    context: bool,
    /// Whether one of them is the wildcard for all of its namespace.
    wildcard: bool,
}

impl<'data> ContextQuery<'data> {
    /// `None` if the lengths contradict each other.
    pub(crate) fn parse(data: &'data [u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = u32::from_be_bytes(fields.array()?);
        let (mut context, mut wildcard) = (false, false);
        // Each takes four bytes at least, so that a wrong count ends soon.
        for _ in 0..count {
            let query = fields.string()?;
            context |= query == wire::CONTEXT;
            wildcard |= query == wire::CONTEXT_NAMESPACE;
        }
        fields.0.is_empty().then_some(Self { name, count, context, wildcard })
    }

    /// Whether the one context is among what is listed, or set.
    pub(crate) fn selects(&self, sets: bool) -> bool {
        self.context || (!sets && (self.wildcard || self.count == 0))
    }
}

/// What is left of some data.
struct Fields<'data>(&'data [u8]);

impl<'data> Fields<'data> {
    fn bytes(&mut self, count: usize) -> Option<&'data [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    /// A length of 32 bits, and so many bytes.
    fn string(&mut self) -> Option<&'data [u8]> {
        let length = u32::from_be_bytes(self.array()?);
        let length = usize::try_from(length).ok().filter(|length| *length <= wire::MAX_STRING)?;
        self.bytes(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(text: &[u8]) -> Vec<u8> {
        [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
    }

    fn contexts(queries: &[&[u8]]) -> Vec<u8> {
        let count = u32::try_from(queries.len()).unwrap().to_be_bytes();
        let queries: Vec<u8> = queries.iter().flat_map(|query| string(query)).collect();
        [string(b"disk"), count.to_vec(), queries].concat()
    }

    #[test]
    fn facts_are_asked_for_by_number() {
        let data = [string(b"disk"), vec![0, 2, 0, 3, 0x12, 0x34]].concat();
        let query = InfoQuery::parse(&data).unwrap();
        assert_eq!(query.name, b"disk");
        assert!(query.asks_for(wire::INFO_BLOCK_SIZE) && query.asks_for(0x1234));
        assert!(!query.asks_for(wire::INFO_NAME) && !query.asks_for(0x0312));
    }

    #[test]
    fn lengths_have_to_fit() {
        let data = [string(b"disk"), vec![0, 2, 0, 3, 0x12, 0x34]].concat();
        for cut in 0..data.len() {
            assert_eq!(InfoQuery::parse(&data[..cut]), None);
        }
        assert_eq!(InfoQuery::parse(&[&data[..], &[0]].concat()), None);
        let data = contexts(&[b"base:allocation", b"", b"qemu:dirty-bitmap:x"]);
        assert!(ContextQuery::parse(&data).is_some());
        for cut in 0..data.len() {
            assert_eq!(ContextQuery::parse(&data[..cut]), None);
        }
        assert_eq!(ContextQuery::parse(&[&data[..], &[0]].concat()), None);
        let long = string(&vec![b'x'; wire::MAX_STRING + 1]);
        assert_eq!(InfoQuery::parse(&[&long[..], &[0, 0]].concat()), None);
        // Four thousand million queries, none of which is there.
        assert_eq!(ContextQuery::parse(&[string(b""), vec![0xff; 4]].concat()), None);
    }

    #[test]
    fn a_wildcard_lists_and_does_not_set() {
        for (queries, listed, set) in [
            (&[][..], true, false),
            (&[&b"base:"[..]][..], true, false),
            (&[b"base:allocation"], true, true),
            (&[b"x-a:b", b"base:allocation"], true, true),
            (&[b"base:other", b"base", b"", b"base:allocation2"], false, false),
        ] {
            let data = contexts(queries);
            let query = ContextQuery::parse(&data).unwrap();
            assert_eq!((query.selects(false), query.selects(true)), (listed, set), "{queries:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(query) = InfoQuery::parse(&data) {
                prop_assert_eq!(4 + query.name.len() + 2 + query.facts.len(), data.len());
            }
            if let Some(query) = ContextQuery::parse(&data) {
                prop_assert!(query.name.len() + 8 <= data.len());
            }
        }
    }
}
