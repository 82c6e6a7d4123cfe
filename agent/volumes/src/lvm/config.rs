//! The language of LVM's metadata: sections in braces, assignments, lists; read without recursion and within bounds.

use std::collections::BTreeMap;

/// Sections within each other: a segment lies in a volume, in the list of them, in the group.
const DEPTH_MAX: usize = 8;
/// Assignments, sections and items of lists. A logical volume needs some twenty.
const NODES_MAX: usize = 1 << 18;

/// The value of an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A whole number that is not negative.
    Number(u64),
    Text(String),
    List(Vec<Value>),
    /// A number of another sort.
    Other,
}

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Value(Value),
    Section(Section),
}

/// Names and what stands under them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Section(BTreeMap<String, Node>);

impl Section {
    pub(crate) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(name, node)| match node {
            Node::Section(section) => Some((name.as_str(), section)),
            Node::Value(_) => None,
        })
    }

    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        match self.0.get(name)? {
            Node::Section(section) => Some(section),
            Node::Value(_) => None,
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Value> {
        self.0.values().filter_map(|node| match node {
            Node::Value(value) => Some(value),
            Node::Section(_) => None,
        })
    }

    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        match self.0.get(name)? {
            Node::Value(value) => Some(value),
            Node::Section(_) => None,
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.value(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A list of texts; `None` where there is no such list.
    pub(crate) fn texts(&self, name: &str) -> Option<Vec<&str>> {
        let Value::List(list) = self.value(name)? else { return None };
        let text = |value: &'_ Value| -> bool { matches!(value, Value::Text(_)) };
        if !list.iter().all(text) {
            return None;
        }
        Some(
            list.iter()
                .filter_map(|value| if let Value::Text(text) = value { Some(text.as_str()) } else { None })
                .collect(),
        )
    }
}

/// Reads a text; `None` where it is not in the language, or larger than any of LVM's.
pub(crate) fn parse(text: &[u8]) -> Option<Section> {
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    let mut reader = Reader { rest: text, nodes: 0 };
    let mut open: Vec<(String, Section)> = Vec::new();
    let mut section = Section::default();
    loop {
        reader.skip();
        let Some(first) = reader.rest.first() else {
            return open.is_empty().then_some(section);
        };
        if *first == b'}' {
            reader.rest = &reader.rest[1..];
            let (name, around) = open.pop()?;
            let inner = std::mem::replace(&mut section, around);
            insert(&mut section, name, Node::Section(inner))?;
            continue;
        }
        let name = reader.name()?;
        reader.count()?;
        reader.skip();
        match reader.take()? {
            b'{' if open.len() < DEPTH_MAX => open.push((name, std::mem::take(&mut section))),
            b'=' => {
                let value = reader.value()?;
                insert(&mut section, name, Node::Value(value))?;
            }
            _ => return None,
        }
    }
}

/// A name that stands twice could mean either.
fn insert(section: &mut Section, name: String, node: Node) -> Option<()> {
    section.0.insert(name, node).is_none().then_some(())
}

struct Reader<'a> {
    rest: &'a [u8],
    nodes: usize,
}

impl Reader<'_> {
    fn count(&mut self) -> Option<()> {
        self.nodes += 1;
        (self.nodes <= NODES_MAX).then_some(())
    }

    fn take(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// The bytes for which `is` holds.
    fn while_(&mut self, is: impl Fn(u8) -> bool) -> &[u8] {
        let len = self.rest.iter().position(|byte| !is(*byte)).unwrap_or(self.rest.len());
        let (found, rest) = self.rest.split_at(len);
        self.rest = rest;
        found
    }

    /// Leaves out white space and comments.
    fn skip(&mut self) {
        loop {
            self.while_(|byte| byte.is_ascii_whitespace());
            if self.rest.first() != Some(&b'#') {
                return;
            }
            self.while_(|byte| byte != b'\n');
        }
    }

    fn name(&mut self) -> Option<String> {
        let name = self.while_(|byte| byte.is_ascii_alphanumeric() || b"_-+.@".contains(&byte));
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }

    fn value(&mut self) -> Option<Value> {
        self.skip();
        if self.rest.first() != Some(&b'[') {
            return self.scalar();
        }
        self.take()?;
        let mut list = Vec::new();
        loop {
            self.skip();
            if self.rest.first() == Some(&b']') {
                self.take()?;
                return Some(Value::List(list));
            }
            if !list.is_empty() {
                (self.take()? == b',').then_some(())?;
                self.skip();
            }
            self.count()?;
            list.push(self.scalar()?);
        }
    }

    fn scalar(&mut self) -> Option<Value> {
        if self.rest.first() == Some(&b'"') {
            return self.text().map(Value::Text);
        }
        let number = self.while_(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        let number = std::str::from_utf8(number).ok().filter(|number| !number.is_empty())?;
        Some(number.parse().map_or(Value::Other, Value::Number))
    }

    fn text(&mut self) -> Option<String> {
        self.take()?;
        let mut text = Vec::new();
        loop {
            match self.take()? {
                b'"' => return Some(String::from_utf8_lossy(&text).into_owned()),
                b'\\' => text.push(self.take()?),
                byte => text.push(byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lvm_writes() {
        let text =
            b"vg {\n\tid = \"a\\\"b\"\n# comment }\nseqno = 12 # more\nstatus = [\"READ\", \"WRITE\"]\nflags = []\n\
                     stripes = [\n\"pv0\", 0\n]\nratio = -1.5\nlv { size = 3 }\n}\nversion = 1\n\0";
        let all = parse(text).unwrap();
        let group = all.section("vg").unwrap();
        assert_eq!((group.text("id"), group.number("seqno")), (Some("a\"b"), Some(12)));
        assert_eq!((group.texts("status"), group.texts("flags")), (Some(vec!["READ", "WRITE"]), Some(vec![])));
        let stripes = Value::List(vec![Value::Text("pv0".into()), Value::Number(0)]);
        assert_eq!((group.value("stripes"), group.texts("stripes")), (Some(&stripes), None));
        assert_eq!(group.value("ratio"), Some(&Value::Other));
        assert_eq!(group.sections().map(|(name, lv)| (name, lv.number("size"))).collect::<Vec<_>>(), [("lv", Some(3))]);
        assert_eq!(all.number("version"), Some(1));
    }

    #[test]
    fn what_is_not_in_the_language() {
        for text in [
            &b"a"[..],
            b"a {",
            b"}",
            b"a = ",
            b"a = [",
            b"a = [1",
            b"a = [1 2]",
            b"a = \"x",
            b"a = \"x\\",
            b"= 1",
            b"a 1",
            b"a = 1\na = 2",
            b"a = 1\na { }",
            b"a = x",
            b"a = 1\0\0",
            b"a = [[1]]",
        ] {
            assert_eq!(parse(text), None, "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(parse(b""), Some(Section::default()));
        let deep = |depth: usize| ["a{".repeat(depth), "}".repeat(depth)].concat();
        assert!(parse(deep(DEPTH_MAX).as_bytes()).is_some() && parse(deep(DEPTH_MAX + 1).as_bytes()).is_none());
        assert!(parse(["a = [", &"1,".repeat(NODES_MAX), "1]"].concat().as_bytes()).is_none());
    }
}
