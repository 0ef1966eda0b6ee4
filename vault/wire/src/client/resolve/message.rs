//! DNS messages (RFC 1035, section 4): one question, and the addresses in an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A record type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address.
    A = 1,
    /// An IPv6 address (RFC 3596).
    Aaaa = 28,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Addresses; none when the name has none of the kind.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
    /// More than fits into a datagram: ask over TCP.
    Truncated,
    /// The server cannot or will not tell: its response code.
    Refused(u8),
}

const ALIAS: u16 = 5;
const INTERNET: u16 = 1;
/// Jumps within a message, and names that lead on to others; more is a circle.
const MOST_JUMPS: usize = 32;

/// A question. None when the name cannot be one: labels have 1 to 63 bytes, all at most 253.
pub fn question(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 18);
    // Recursion desired; one question.
    bytes.extend(id.to_be_bytes());
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    if name.len() > 253 {
        return None;
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend((kind as u16).to_be_bytes());
    bytes.extend(INTERNET.to_be_bytes());
    Some(bytes)
}

/// Reads an answer. None when it is none to this question, or is damaged.
pub fn reply(bytes: &[u8], question: &[u8], kind: Kind) -> Option<Reply> {
    let mut reader = Reader { bytes, at: 0 };
    let id = reader.number()?;
    let flags = reader.number()?;
    let questions = reader.number()?;
    let answers = reader.number()?;
    reader.take(4)?;
    let is_answer = flags & 0x8000 != 0 && questions == 1;
    if !is_answer || question.get(..2)? != id.to_be_bytes() {
        return None;
    }
    // Somebody who guesses the number must guess the question, too (RFC 5452, section 9.1).
    let asked = question.get(12..)?;
    if !reader.take(asked.len())?.eq_ignore_ascii_case(asked) {
        return None;
    }
    match flags & 0xf {
        0 => {}
        3 => return Some(Reply::NoSuchName),
        code => return Some(Reply::Refused(code as u8)),
    }
    if flags & 0x0200 != 0 {
        return Some(Reply::Truncated);
    }
    let mut wanted = Reader { bytes, at: 12 }.name()?;
    let mut records = Vec::new();
    for _ in 0..answers {
        records.push(reader.record()?);
    }
    // Aliases lead on, in whatever order they come.
    for _ in 0..MOST_JUMPS {
        let alias = records
            .iter()
            .find(|r| r.kind == ALIAS && r.class == INTERNET && r.name == wanted);
        let Some(alias) = alias else { break };
        let at = alias.content;
        wanted = Reader { bytes, at }.name()?;
    }
    let ours = records
        .iter()
        .filter(|r| r.kind == kind as u16 && r.class == INTERNET && r.name == wanted);
    let addresses = ours.map(|record| {
        let content = bytes.get(record.content..record.content + record.length)?;
        Some(match kind {
            Kind::A => Ipv4Addr::from(<[u8; 4]>::try_from(content).ok()?).into(),
            Kind::Aaaa => Ipv6Addr::from(<[u8; 16]>::try_from(content).ok()?).into(),
        })
    });
    Some(Reply::Addresses(addresses.collect::<Option<_>>()?))
}

/// A record of an answer; its content is `length` bytes from `content` on.
struct Record {
    name: Vec<u8>,
    kind: u16,
    class: u16,
    content: usize,
    length: usize,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let taken = self.take(2)?;
        Some(u16::from_be_bytes([taken[0], taken[1]]))
    }

    /// A name in lower case, its labels with their lengths before them; follows what it refers to.
    fn name(&mut self) -> Option<Vec<u8>> {
        let (mut name, mut end) = (Vec::new(), None);
        for _ in 0..MOST_JUMPS * 8 {
            let length = self.take(1)?[0];
            match length {
                0 => {
                    self.at = end.unwrap_or(self.at);
                    return Some(name);
                }
                1..=63 => {
                    name.push(length);
                    let label = self.take(length.into())?;
                    name.extend(label.iter().map(u8::to_ascii_lowercase));
                    if name.len() > 255 {
                        return None;
                    }
                }
                0xc0.. => {
                    let low = self.take(1)?[0];
                    end = end.or(Some(self.at));
                    self.at = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                }
                _ => return None,
            }
        }
        None
    }

    fn record(&mut self) -> Option<Record> {
        let name = self.name()?;
        let (kind, class) = (self.number()?, self.number()?);
        // How long it may be remembered: it is not.
        self.take(4)?;
        let length = usize::from(self.number()?);
        let content = self.at;
        self.take(length)?;
        Some(Record {
            name,
            kind,
            class,
            content,
            length,
        })
    }
}
