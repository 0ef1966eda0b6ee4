//! The serial console: what a hostile machine wrote, as lines of plain text.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use regex::Regex;

use super::{Attempt, Evidence};

/// A line longer than this is cut in pieces of this many bytes.
const LONGEST_LINE: usize = 8 << 10;
/// The last lines are looked for in so many bytes at the end of the file.
const TAIL_BYTES: u64 = 256 << 10;
const READ_AT_ONCE: usize = 64 << 10;

/// Follows a console file from its beginning. The file may not be there yet, and one that has
/// become shorter, since its older part was cut out, is read again.
#[derive(Debug)]
pub struct ConsoleReader {
    path: PathBuf,
    offset: u64,
    text: PlainText,
}

impl ConsoleReader {
    /// A reader that has read nothing.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            offset: 0,
            text: PlainText::default(),
        }
    }

    /// The first line among those added since the last call that `matches`; the unfinished last
    /// line, such as a prompt, counts too. Lines after the match are left for the next call's
    /// reader, which starts anew.
    fn find(&mut self, matches: impl Fn(&str) -> bool) -> std::io::Result<Option<String>> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() < self.offset {
            self.offset = 0;
            self.text = PlainText::default();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut buffer = vec![0; READ_AT_ONCE];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            self.offset += read as u64;
            let mut found = None;
            for byte in buffer.iter().take(read) {
                if let Some(line) = self.text.push(*byte)
                    && found.is_none()
                    && matches(&line)
                {
                    found = Some(line);
                }
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(self.text.unfinished().filter(|line| matches(line)))
    }
}

pub(super) fn attempt(reader: &mut ConsoleReader, pattern: &Regex) -> Attempt {
    match reader.find(|line| pattern.is_match(line)) {
        Ok(Some(line)) => Attempt::holds(Evidence {
            summary: format!("the console shows \"{line}\""),
            console_line: Some(line),
            ..Evidence::default()
        }),
        Ok(None) => Attempt::not_yet(
            false,
            Evidence {
                summary: match reader.offset {
                    0 => "the console is empty".into(),
                    read => format!("no line of the console matches ({read} bytes)"),
                },
                ..Evidence::default()
            },
        ),
        Err(error) => Attempt::not_yet(
            false,
            Evidence {
                summary: format!("the console cannot be read: {error}"),
                ..Evidence::default()
            },
        ),
    }
}

/// The last lines of a console file that are not blank; none when it cannot be read.
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let mut text = PlainText::default();
    let mut last = VecDeque::new();
    let bytes = read().unwrap_or_default();
    let finished = bytes.iter().filter_map(|byte| text.push(*byte));
    for line in finished
        .collect::<Vec<_>>()
        .into_iter()
        .chain(text.unfinished())
    {
        if line.trim().is_empty() {
            continue;
        }
        if last.len() == lines {
            last.pop_front();
        }
        last.push_back(line);
    }
    last.into()
}

/// Makes lines of text of a terminal's bytes: control sequences (ECMA-48) vanish.
#[derive(Debug, Default)]
struct PlainText {
    line: Vec<u8>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte, such as `(`.
    Intermediate,
    /// After `ESC [`: parameters until a final byte.
    Sequence,
    /// After `ESC ]` and the like: a string until BEL or `ESC \`.
    String,
}

impl PlainText {
    /// Takes a byte; gives the line that it ended, if it did.
    fn push(&mut self, byte: u8) -> Option<String> {
        const ESC: u8 = 0x1b;
        self.state = match (self.state, byte) {
            // Line ends end everything: a sequence cut short must not swallow the log.
            (_, b'\n' | b'\r') => {
                self.state = State::Text;
                return self.take();
            }
            (_, ESC) => State::Escape,
            (State::Escape, b'[') => State::Sequence,
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::String,
            (State::Escape | State::Intermediate, 0x20..=0x2f) => State::Intermediate,
            (State::Sequence, 0x20..=0x3f) => State::Sequence,
            (State::String, 0x07) => State::Text,
            (State::String, _) => State::String,
            (State::Escape | State::Intermediate | State::Sequence, _) => State::Text,
            (State::Text, b'\t') => {
                self.line.push(b' ');
                State::Text
            }
            (State::Text, 0x00..=0x1f | 0x7f) => State::Text,
            (State::Text, _) => {
                self.line.push(byte);
                if self.line.len() >= LONGEST_LINE {
                    return self.take();
                }
                State::Text
            }
        };
        None
    }

    fn take(&mut self) -> Option<String> {
        let line = self.unfinished();
        self.line.clear();
        line
    }

    fn unfinished(&self) -> Option<String> {
        (!self.line.is_empty()).then(|| String::from_utf8_lossy(&self.line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        std::fs::write(&path, bytes).unwrap();
        tail(&path, 100)
    }

    #[test]
    fn colours_and_control_characters_vanish() {
        assert_eq!(
            lines(b"[\x1b[0;32m  OK  \x1b[0m] Started\r\nnext"),
            ["[  OK  ] Started", "next"]
        );
        assert_eq!(lines(b"\x1b]0;title\x07shell\x1b(B$\n"), ["shell$"]);
        assert_eq!(
            lines(b"\x1b[31\nafter a cut sequence"),
            ["after a cut sequence"]
        );
        assert_eq!(lines(b"\0\x01a\x7fb\tc\n\n \n"), ["ab c"]);
        assert_eq!(lines(&[0xff, 0xfe, b'\n']), ["\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn a_prompt_without_line_end_matches_and_pieces_are_joined() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let pattern = Regex::new("demo login: $").unwrap();
        let mut reader = ConsoleReader::new(&path);
        assert!(
            !attempt(&mut reader, &pattern).holds,
            "there is no file yet"
        );
        std::fs::write(&path, "starting\r\ndemo lo").unwrap();
        assert!(!attempt(&mut reader, &pattern).holds);
        std::fs::write(&path, "starting\r\ndemo login: ").unwrap();
        let seen = attempt(&mut reader, &pattern);
        assert_eq!(seen.evidence.console_line.as_deref(), Some("demo login: "));
    }

    /// Guards: a line is found though the virtual machine monitor cut out what was before it.
    #[test]
    fn a_console_that_became_shorter_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let pattern = Regex::new("ready").unwrap();
        let mut reader = ConsoleReader::new(&path);
        std::fs::write(&path, "noise\n".repeat(100)).unwrap();
        assert!(!attempt(&mut reader, &pattern).holds);
        std::fs::write(&path, "noise\nready\n").unwrap();
        assert!(attempt(&mut reader, &pattern).holds);
    }

    #[test]
    fn the_tail_is_short_whatever_the_length() {
        let mut bytes = Vec::new();
        for i in 0..100_000 {
            bytes.extend_from_slice(format!("line {i}\n").as_bytes());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(tail(&path, 2), ["line 99998", "line 99999"]);
        assert!(
            lines(&[b'x'; 100_000])
                .iter()
                .all(|line| line.len() <= LONGEST_LINE)
        );
        assert!(tail(&dir.path().join("none"), 2).is_empty());
    }

    proptest::proptest! {
        /// Whatever a machine writes, no control character comes through.
        #[test]
        fn lines_have_no_control_characters(bytes: Vec<u8>) {
            for line in lines(&bytes) {
                proptest::prop_assert!(!line.bytes().any(|b| b < 0x20 || b == 0x7f));
            }
        }
    }
}
