//! Bytes as lines that a person can print, read out and type again.
//!
//! ```text
//! 01  ABCD EFGH JKMN PQRS TVWX YZ23  9K4R
//! ──  ─────────────────────────────  ────
//! number     15 bytes of the text    check
//! ```
//!
//! Digits and letters are Crockford's base 32: case does not matter, `I` and `L` read as 1, `O`
//! as 0, there is no `U`; blanks and hyphens between them are free. A line's check is the first
//! 20 bits of BLAKE3 over its number, whether it is the last, and its bytes: a mistake is found in
//! the line in which it was made, and where one wrong character or one exchanged pair explains it,
//! in its group. The last four bytes of the text are the BLAKE3 of what stands before them, so
//! that sound lines of two texts do not pass for one.

use zeroize::Zeroizing;

/// Bytes in a full line.
const LINE: usize = 15;
/// Characters of a line's check.
const CHECK: usize = 4;
/// Bytes that close a text.
const SEAL: usize = 4;
/// Most lines of a text: far more than anybody types.
const MAX_LINES: u16 = 999;
const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Why typed lines are not what was printed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypedError {
    /// Not a numbered line.
    #[error("'{0}' is no numbered line such as '01  ABCD EFGH …'")]
    NotALine(String),
    /// A character that no line has.
    #[error("line {line:02}: '{symbol}' is not used in these lines")]
    Symbol {
        /// The line's number.
        line: u16,
        /// The character.
        symbol: char,
    },
    /// The check does not fit.
    #[error("line {line:02} is mistyped{}", hint(*.group))]
    Mistyped {
        /// The line's number.
        line: u16,
        /// The group of four in which one mistake would explain it, from 1.
        group: Option<usize>,
    },
    /// Another line should stand here.
    #[error("line {expected:02} is missing: line {found:02} stands in its place")]
    OutOfOrder {
        /// The number that should follow.
        expected: u16,
        /// The number that was found.
        found: u16,
    },
    /// The text stops before its last line.
    #[error("the text ends before its last line: line {0:02} is missing")]
    Unfinished(u16),
    /// Each line is right and the whole is not.
    #[error("every line is right by itself, but they are lines of different texts")]
    Mixed,
    /// There is nothing.
    #[error("there are no typed lines in it")]
    Empty,
}

fn hint(group: Option<usize>) -> String {
    group.map_or(String::new(), |g| format!(" (look at group {g})"))
}

/// The lines of a text.
pub fn lines(payload: &[u8]) -> Vec<String> {
    let mut whole = Zeroizing::new(payload.to_vec());
    whole.extend_from_slice(&blake3::hash(payload).as_bytes()[..SEAL]);
    let count = whole.len().div_ceil(LINE);
    let numbered = whole.chunks(LINE).zip(1u16..);
    numbered
        .map(|(bytes, number)| {
            let check = check(number, usize::from(number) == count, bytes);
            let groups: Vec<String> = encode(bytes)
                .chunks(4)
                .map(|group| String::from_utf8_lossy(group).into_owned())
                .collect();
            let check = String::from_utf8_lossy(&check).into_owned();
            format!("{number:02}  {}  {check}", groups.join(" "))
        })
        .collect()
}

/// Reads all texts that follow one another in `input`: from a file, a terminal or a QR code.
///
/// Blank lines and lines that begin with `#` are passed over; where the input has lines that begin
/// with `-----BEGIN` and `-----END`, all that is not between such lines is. `/` separates like a
/// line break, since QR codes have no line breaks.
pub fn read(input: &str) -> Result<Vec<Zeroizing<Vec<u8>>>, TypedError> {
    let marked = input.lines().any(|l| l.trim().starts_with("-----BEGIN"));
    let mut inside = !marked;
    let (mut texts, mut typing) = (Vec::new(), Typing::default());
    for line in input.lines().map(str::trim) {
        if line.starts_with("-----") {
            inside = line.starts_with("-----BEGIN") || !marked;
            continue;
        }
        if !inside || line.starts_with('#') {
            continue;
        }
        for part in line.split('/').filter(|part| !part.trim().is_empty()) {
            if let Some(text) = typing.line(part)? {
                texts.push(text);
            }
        }
    }
    match typing.next_number() {
        1 if texts.is_empty() => Err(TypedError::Empty),
        1 => Ok(texts),
        next => Err(TypedError::Unfinished(next)),
    }
}

/// A text that is being typed, line by line.
#[derive(Default)]
pub struct Typing {
    bytes: Zeroizing<Vec<u8>>,
    lines: u16,
}

impl Typing {
    /// The number of the line that comes next.
    pub fn next_number(&self) -> u16 {
        self.lines + 1
    }

    /// Takes the next line; after the last one gives the text and is ready for another. A line
    /// that is refused may be given again.
    pub fn line(&mut self, text: &str) -> Result<Option<Zeroizing<Vec<u8>>>, TypedError> {
        let (number, symbols) = split(text)?;
        let expected = self.next_number();
        if number != expected {
            return Err(TypedError::OutOfOrder {
                expected,
                found: number,
            });
        }
        let (bytes, last) = judge(number, &symbols).ok_or_else(|| TypedError::Mistyped {
            line: number,
            group: locate(number, &symbols),
        })?;
        self.bytes.extend_from_slice(&bytes);
        self.lines = number;
        if !last {
            return Ok(None);
        }
        let typed = std::mem::take(self);
        let payload = typed.bytes.len().saturating_sub(SEAL);
        let (payload, seal) = typed.bytes.split_at(payload);
        if &blake3::hash(payload).as_bytes()[..SEAL] != seal {
            return Err(TypedError::Mixed);
        }
        Ok(Some(Zeroizing::new(payload.to_vec())))
    }
}

/// Number and symbols (values below 32) of a line.
fn split(text: &str) -> Result<(u16, Zeroizing<Vec<u8>>), TypedError> {
    let text = text.trim();
    let not_a_line = || TypedError::NotALine(text.chars().take(40).collect());
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(not_a_line)?;
    let (number, rest) = text.split_at(digits);
    let number: u16 = number.parse().map_err(|_| not_a_line())?;
    if !(1..=MAX_LINES).contains(&number) || !rest.starts_with([' ', '\t', ':', '.', ')', '-']) {
        return Err(not_a_line());
    }
    let mut symbols = Zeroizing::new(Vec::with_capacity(32));
    for c in rest.chars() {
        if c.is_whitespace() || ['-', ':', '.', ')'].contains(&c) {
            continue;
        }
        let value = value(c).ok_or(TypedError::Symbol {
            line: number,
            symbol: c,
        })?;
        symbols.push(value);
    }
    Ok((number, symbols))
}

/// The bytes of a line whose check fits, and whether it is the last.
fn judge(number: u16, symbols: &[u8]) -> Option<(Zeroizing<Vec<u8>>, bool)> {
    let (data, found) = symbols.split_at_checked(symbols.len().checked_sub(CHECK)?)?;
    let bytes = decode(data)?;
    if bytes.is_empty() || bytes.len() > LINE {
        return None;
    }
    let fits = |last| {
        let wanted = check(number, last, &bytes);
        let found = found.iter().map(|&v| SYMBOLS[usize::from(v)]);
        wanted.iter().copied().eq(found)
    };
    if bytes.len() == LINE && fits(false) {
        return Some((bytes, false));
    }
    fits(true).then_some((bytes, true))
}

/// The group in which one wrong symbol, or two neighbours exchanged, would explain a bad check.
fn locate(number: u16, symbols: &[u8]) -> Option<usize> {
    let mut tried = Zeroizing::new(symbols.to_vec());
    let mut found = None;
    let mut note = |at: usize| match found {
        Some(group) if group != at / 4 + 1 => false,
        _ => {
            found = Some(at / 4 + 1);
            true
        }
    };
    for at in 0..symbols.len() {
        for value in 0..32 {
            tried[at] = value;
            if value != symbols[at] && judge(number, &tried).is_some() && !note(at) {
                return None;
            }
        }
        tried[at] = symbols[at];
        if at + 1 < symbols.len() && symbols[at] != symbols[at + 1] {
            tried.swap(at, at + 1);
            if judge(number, &tried).is_some() && !note(at) {
                return None;
            }
            tried.swap(at, at + 1);
        }
    }
    found
}

fn check(number: u16, last: bool, bytes: &[u8]) -> [u8; CHECK] {
    let mut hasher = blake3::Hasher::new_derive_key("relevo 1 typed line");
    hasher
        .update(&number.to_le_bytes())
        .update(&[u8::from(last)])
        .update(bytes);
    let hash = hasher.finalize();
    let mut symbols = [0; CHECK];
    symbols.copy_from_slice(&encode(&hash.as_bytes()[..3])[..CHECK]);
    symbols
}

fn encode(bytes: &[u8]) -> Vec<u8> {
    let (mut held, mut bits) = (0u32, 0);
    let mut symbols = Vec::with_capacity(bytes.len() * 8 / 5 + 1);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            symbols.push(SYMBOLS[(held >> bits & 31) as usize]);
        }
    }
    if bits > 0 {
        symbols.push(SYMBOLS[(held << (5 - bits) & 31) as usize]);
    }
    symbols
}

/// Nothing when bits are left over that [`encode`] would not have made.
fn decode(symbols: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (mut held, mut bits) = (0u32, 0);
    let mut bytes = Zeroizing::new(Vec::with_capacity(symbols.len() * 5 / 8));
    for value in symbols {
        held = held << 5 | u32::from(*value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 255) as u8);
        }
    }
    (bits < 5 && held & ((1 << bits) - 1) == 0).then_some(bytes)
}

fn value(c: char) -> Option<u8> {
    let c = match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        c => c,
    };
    SYMBOLS
        .iter()
        .position(|&symbol| char::from(symbol) == c)
        .map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Guards the round trip, however the lines are typed.
        #[test]
        fn what_was_printed_reads_back(
            payload in proptest::collection::vec(any::<u8>(), 0..300), style in 0..4,
        ) {
            let lines = lines(&payload);
            let text = match style {
                0 => lines.join("\n"),
                1 => lines.join("\n\n").to_lowercase().replace('0', "o"),
                2 => lines.iter().map(|l| l.split_whitespace().collect::<Vec<_>>())
                    .map(|w| format!("{} {}", w[0], w[1..].concat())).collect::<Vec<_>>().join("/"),
                _ => format!("prose\n-----BEGIN X-----\n{}\n-----END X-----\n99 bottles", lines.join("\n")),
            };
            // Style 1 turns zeros of line numbers into letters too: those are put back.
            let text: String = match style {
                1 => text.lines().map(|l| {
                    let (number, rest) = l.split_at(l.len().min(3));
                    format!("{}{rest}\n", number.replace('o', "0"))
                }).collect(),
                _ => text,
            };
            let read = read(&text).unwrap();
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(&**read[0], &payload[..]);
        }

        /// Guards: one wrong character or one exchanged pair is found in its line and group.
        #[test]
        fn a_mistake_is_located(
            payload in proptest::collection::vec(any::<u8>(), 60), line in 0usize..5,
            at in any::<prop::sample::Index>(), other in 0usize..32,
        ) {
            let mut lines = lines(&payload);
            let mut typed: Vec<char> = lines[line].chars().collect();
            let places: Vec<usize> = (3..typed.len()).filter(|i| typed[*i] != ' ').collect();
            let at = at.index(places.len());
            let wrong = char::from(SYMBOLS[other]);
            prop_assume!(typed[places[at]] != wrong);
            typed[places[at]] = wrong;
            lines[line] = typed.into_iter().collect();
            match read(&lines.join("\n")) {
                Err(TypedError::Mistyped { line: found, group }) => {
                    prop_assert_eq!(usize::from(found), line + 1);
                    prop_assert!(group.is_none() || group == Some(at / 4 + 1));
                }
                // A line that now passes for the last one is told by what follows it.
                Err(_) => {}
                Ok(_) => prop_assert!(false, "a mistake passed"),
            }
        }

        #[test]
        fn anything_else_is_an_error_and_no_panic(text in "[ -~\n]{0,200}") {
            let _ = read(&text);
        }
    }

    #[test]
    fn missing_exchanged_and_mixed_lines_are_named() {
        let one = lines(&[1; 50]);
        let two = lines(&[2; 50]);
        let joined = |lines: &[&String]| {
            let text: Vec<_> = lines.iter().map(|l| l.as_str()).collect();
            read(&text.join("\n"))
        };
        let (expected, found) = (2, 3);
        assert_eq!(
            joined(&[&one[0], &one[2]]).err(),
            Some(TypedError::OutOfOrder { expected, found })
        );
        assert_eq!(joined(&[&one[0]]).err(), Some(TypedError::Unfinished(2)));
        assert_eq!(
            joined(&[&one[0], &two[1], &one[2], &one[3]]).err(),
            Some(TypedError::Mixed)
        );
        assert_eq!(read("# nothing\n").err(), Some(TypedError::Empty));
        assert!(matches!(read("hello"), Err(TypedError::NotALine(_))));
        let symbol = TypedError::Symbol {
            line: 1,
            symbol: 'u',
        };
        assert_eq!(read("01 ABCu").err(), Some(symbol));
    }
}
