//! Questions on the terminal, also when standard input and output go elsewhere.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, IsTerminal, Write};

use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// What Ctrl-C types when it sends no signal.
const INTERRUPT: char = '\u{3}';
/// What Ctrl-D types when it ends no input.
const END: u8 = 4;

/// The terminal of this process.
pub struct Terminal {
    file: File,
    lines: BufReader<File>,
}

impl Terminal {
    /// Opens it, if there is one and somebody reads what this process says.
    pub fn open() -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open("/dev/tty").ok()?;
        let lines = BufReader::new(file.try_clone().ok()?);
        Some(Self { file, lines })
    }

    /// Shows text.
    pub fn say(&mut self, text: &str) {
        // Whoever cannot see it cannot answer either, which is met below.
        let _ = self.file.write_all(text.as_bytes());
    }

    /// Asks for one line, which is shown as it is typed.
    pub fn ask(&mut self, question: &str) -> Result<Zeroizing<String>, Failure> {
        self.say(question);
        self.line()
    }

    /// Asks for one line, which is not shown.
    pub fn ask_secret(&mut self, question: &str) -> Result<Zeroizing<String>, Failure> {
        self.say(question);
        let silent = self.file.try_clone().map(Silence::begin);
        let line = self.line();
        drop(silent);
        self.say("\n");
        line
    }

    fn line(&mut self) -> Result<Zeroizing<String>, Failure> {
        let mut line = Zeroizing::new(String::new());
        let read = self.lines.read_line(&mut line);
        let ended = matches!(read, Ok(0) | Err(_)) || line.contains(INTERRUPT);
        if ended {
            let failure = Failure::new("nobody answered", "start the command again");
            return Err(failure.with_code(Failure::INTERRUPTED));
        }
        let length = line.trim_end_matches(['\r', '\n']).len();
        line.truncate(length);
        Ok(line)
    }
}

/// Until dropped the terminal shows nothing of what is typed. Ctrl-C ends the line instead of
/// the process, so that the terminal is never left silent.
struct Silence {
    terminal: File,
    before: Option<Termios>,
}

impl Silence {
    fn begin(terminal: File) -> Self {
        let before = tcgetattr(&terminal).ok();
        if let Some(mut silent) = before.clone() {
            silent
                .local_flags
                .remove(LocalFlags::ECHO | LocalFlags::ISIG);
            silent.control_chars[SpecialCharacterIndices::VEOL as usize] = INTERRUPT as u8;
            silent.control_chars[SpecialCharacterIndices::VEOF as usize] = END;
            let _ = tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent);
        }
        Self { terminal, before }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, before);
        }
    }
}
