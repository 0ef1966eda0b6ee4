//! The text in which LVM2 describes a volume group (lvm.conf(5) has the grammar).

use std::collections::BTreeMap;

use super::whole::{Seen, Whole};

/// Deepest nesting of sections and lists; LVM2 writes four.
const DEEPEST: usize = 16;

/// What stands behind a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Number(u64),
    /// A string, or a number that is not whole and not negative.
    Text(String),
    /// Values in brackets.
    List(Vec<Value>),
    /// Names and values in braces.
    Section(Section),
}

/// Names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section(pub BTreeMap<String, Value>);

impl Section {
    /// A number.
    pub fn number(&self, name: &str) -> Seen<u64> {
        match self.0.get(name) {
            Some(Value::Number(number)) => Ok(*number),
            _ => Err(malformed()),
        }
    }

    /// A string.
    pub fn text(&self, name: &str) -> Seen<&str> {
        match self.0.get(name) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(malformed()),
        }
    }

    /// A list; empty when it is not there.
    pub fn list(&self, name: &str) -> &[Value] {
        match self.0.get(name) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// Whether a list holds a string.
    pub fn flagged(&self, list: &str, flag: &str) -> bool {
        let flags = self.list(list).iter();
        flags
            .into_iter()
            .any(|v| matches!(v, Value::Text(t) if t == flag))
    }

    /// Sections within the section `name`; none when it is not there.
    pub fn sections(&self, name: &str) -> impl Iterator<Item = (&str, &Section)> {
        let within = match self.0.get(name) {
            Some(Value::Section(section)) => Some(section),
            _ => None,
        };
        within.into_iter().flat_map(Section::all_sections)
    }

    /// Sections within this one.
    pub fn all_sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }
}

fn malformed() -> Whole {
    Whole::new("the description of the volume group cannot be read")
}

/// Reads a whole text.
pub fn parse(text: &str) -> Seen<Section> {
    let mut parser = Parser { rest: text };
    let section = parser.section(0)?;
    if parser.rest.is_empty() {
        Ok(section)
    } else {
        Err(malformed())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn skip_space(&mut self) {
        loop {
            self.rest = self
                .rest
                .trim_start_matches(|c: char| c.is_whitespace() || c == '\0');
            let Some(comment) = self.rest.strip_prefix('#') else {
                return;
            };
            self.rest = comment.find('\n').map_or("", |end| &comment[end..]);
        }
    }

    fn take(&mut self, token: char) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> Option<&str> {
        self.skip_space();
        let in_word = |c: char| c.is_ascii_alphanumeric() || "_-+./".contains(c);
        let end = self.rest.find(|c| !in_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (end > 0).then_some(word)
    }

    /// Up to a closing brace or the end, which stay.
    fn section(&mut self, depth: usize) -> Seen<Section> {
        let mut section = Section::default();
        loop {
            self.skip_space();
            if depth > DEEPEST {
                return Err(malformed());
            }
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Ok(section);
            }
            let name = self.word().ok_or_else(malformed)?.to_string();
            let value = if self.take('{') {
                let inner = self.section(depth + 1)?;
                if !self.take('}') {
                    return Err(malformed());
                }
                Value::Section(inner)
            } else if self.take('=') {
                self.value(depth)?
            } else {
                return Err(malformed());
            };
            // Of two values one could be the wrong one.
            if section.0.insert(name, value).is_some() {
                return Err(malformed());
            }
        }
    }

    fn value(&mut self, depth: usize) -> Seen<Value> {
        if depth > DEEPEST {
            return Err(malformed());
        }
        if self.take('[') {
            let mut list = Vec::new();
            while !self.take(']') {
                list.push(self.value(depth + 1)?);
                if !self.take(',') && !self.rest.trim_start().starts_with(']') {
                    return Err(malformed());
                }
            }
            return Ok(Value::List(list));
        }
        if self.take('"') {
            return self.quoted();
        }
        let word = self.word().ok_or_else(malformed)?;
        Ok(match word.parse() {
            Ok(number) => Value::Number(number),
            Err(_) => Value::Text(word.into()),
        })
    }

    fn quoted(&mut self) -> Seen<Value> {
        let mut text = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next().ok_or_else(malformed)? {
                '"' => break,
                '\\' => text.push(chars.next().ok_or_else(malformed)?),
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(Value::Text(text))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_volume_group_is_read() {
        let text = "vg0 {\nid = \"a-b\"\nseqno = 4 # more\nstatus = [\"READ\", \"WRITE\"]\n\
                    flags = []\nlv {\nsegment1 {\nstripes = [\n\"pv0\", 0\n]\n}\n}\n}\n\
                    # Generated\ncontents = \"Text \\\"Format\\\"\"\nversion = 1\n\0";
        let parsed = parse(text).unwrap();
        let (name, group) = parsed.all_sections().next().unwrap();
        assert_eq!((name, group.number("seqno").unwrap()), ("vg0", 4));
        assert!(group.flagged("status", "WRITE") && !group.flagged("flags", "WRITE"));
        let (_, segment) = group.sections("lv").next().unwrap();
        let stripes = [Value::Text("pv0".into()), Value::Number(0)];
        assert_eq!(segment.list("stripes"), stripes);
        assert_eq!(parsed.text("contents").unwrap(), "Text \"Format\"");
        for wrong in [
            "a",
            "a {",
            "a = [1",
            "a = \"",
            "a = 1 }",
            "a = 1 a = 2",
            "{}",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse(&"a { ".repeat(100_000)).is_err());
        assert!(parse(&format!("a = {}", "[".repeat(100_000))).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[a-z0-9={}\\[\\],\" \n#\\\\]{0,200}") {
            let _ = parse(&text);
        }
    }
}
