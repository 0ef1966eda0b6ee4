//! The grammar of GRUB scripts (GRUB manual, "GRUB's script-like configuration").

use std::rc::Rc;

/// Longest script that is read: real ones have some kilobytes.
const MAX_LENGTH: usize = 1 << 20;
/// Deepest nesting of blocks.
const MAX_DEPTH: usize = 64;

pub(super) type Block = Rc<Vec<Statement>>;

#[derive(Debug, Clone)]
pub(super) enum Statement {
    /// A command with its words, and the block of a `menuentry` or `submenu`.
    Command(Vec<Word>, Option<Block>),
    If {
        branches: Vec<(Block, Block)>,
        otherwise: Block,
    },
    For {
        name: String,
        words: Vec<Word>,
        body: Block,
    },
    While {
        condition: Block,
        body: Block,
        until: bool,
    },
    Function {
        name: String,
        body: Block,
    },
}

pub(super) type Word = Vec<Piece>;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// Text; quoted text keeps a word alive even when empty.
    Text { text: String, quoted: bool },
    /// `$name`; unquoted values are split at blanks.
    Variable { name: String, quoted: bool },
}

#[derive(Debug, Clone)]
enum Token {
    Word(Word),
    End,
    Open,
    Close,
}

/// Parses a script.
pub(super) fn parse(text: &str) -> Result<Block, String> {
    if text.len() > MAX_LENGTH {
        return Err(format!("{} bytes is no menu", text.len()));
    }
    let tokens = tokens(text);
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
    };
    let block = parser.block(&[])?;
    match parser.peek() {
        None => Ok(block),
        Some((line, _)) => Err(format!("line {line}: a block ends that was never opened")),
    }
}

fn tokens(text: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while let Some(c) = chars.get(at).copied() {
        match c {
            '\n' => {
                tokens.push((line, Token::End));
                line += 1;
                at += 1;
            }
            ';' | '|' | '&' => {
                tokens.push((line, Token::End));
                at += 1;
            }
            '#' => {
                while chars.get(at).is_some_and(|c| *c != '\n') {
                    at += 1;
                }
            }
            '\\' if chars.get(at + 1) == Some(&'\n') => {
                line += 1;
                at += 2;
            }
            '{' | '}'
                if chars
                    .get(at + 1)
                    .is_none_or(|c| c.is_whitespace() || matches!(c, ';' | '}' | '{')) =>
            {
                tokens.push((line, if c == '{' { Token::Open } else { Token::Close }));
                at += 1;
            }
            c if c.is_whitespace() => at += 1,
            _ => {
                let start = line;
                let word = word(&chars, &mut at, &mut line);
                tokens.push((start, Token::Word(word)));
            }
        }
    }
    tokens
}

fn word(chars: &[char], at: &mut usize, line: &mut usize) -> Word {
    let mut pieces = Vec::new();
    let mut text = String::new();
    while let Some(c) = chars.get(*at).copied() {
        match c {
            '\'' => {
                flush(&mut pieces, &mut text, false);
                *at += 1;
                while let Some(c) = chars.get(*at).copied() {
                    *at += 1;
                    if c == '\'' {
                        break;
                    }
                    *line += usize::from(c == '\n');
                    text.push(c);
                }
                flush(&mut pieces, &mut text, true);
            }
            '"' => {
                flush(&mut pieces, &mut text, false);
                *at += 1;
                double_quoted(chars, at, line, &mut pieces);
            }
            '\\' => {
                *at += 1;
                if let Some(c) = chars.get(*at).copied() {
                    *at += 1;
                    if c == '\n' {
                        *line += 1;
                    } else {
                        text.push(c);
                    }
                }
            }
            '$' => match variable(chars, at) {
                Some(name) => {
                    flush(&mut pieces, &mut text, false);
                    pieces.push(Piece::Variable {
                        name,
                        quoted: false,
                    });
                }
                None => {
                    *at += 1;
                    text.push('$');
                }
            },
            c if c.is_whitespace() || matches!(c, ';' | '|' | '&') => break,
            c => {
                text.push(c);
                *at += 1;
            }
        }
    }
    flush(&mut pieces, &mut text, false);
    pieces
}

fn double_quoted(chars: &[char], at: &mut usize, line: &mut usize, pieces: &mut Word) {
    let mut text = String::new();
    while let Some(c) = chars.get(*at).copied() {
        match c {
            '"' => {
                *at += 1;
                break;
            }
            '\\' => {
                *at += 1;
                match chars.get(*at).copied() {
                    Some(c @ ('$' | '"' | '\\')) => text.push(c),
                    Some('\n') => *line += 1,
                    Some(c) => {
                        text.push('\\');
                        text.push(c);
                    }
                    None => break,
                }
                *at += 1;
            }
            '$' => match variable(chars, at) {
                Some(name) => {
                    flush(pieces, &mut text, true);
                    pieces.push(Piece::Variable { name, quoted: true });
                }
                None => {
                    *at += 1;
                    text.push('$');
                }
            },
            c => {
                *line += usize::from(c == '\n');
                text.push(c);
                *at += 1;
            }
        }
    }
    flush(pieces, &mut text, true);
}

fn flush(pieces: &mut Word, text: &mut String, quoted: bool) {
    if quoted || !text.is_empty() {
        pieces.push(Piece::Text {
            text: std::mem::take(text),
            quoted,
        });
    }
}

/// The name after a `$` at `at`, which moves behind it; `None` if that `$` is only a character.
fn variable(chars: &[char], at: &mut usize) -> Option<String> {
    let braced = chars.get(*at + 1) == Some(&'{');
    let from = *at + 1 + usize::from(braced);
    let mut to = from;
    if braced {
        while *chars.get(to)? != '}' {
            to += 1;
        }
    } else if chars
        .get(from)
        .is_some_and(|c| matches!(c, '?' | '#' | '@' | '*') || c.is_ascii_digit())
    {
        to += 1;
    } else {
        while chars
            .get(to)
            .is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            to += 1;
        }
    }
    if to == from {
        return None;
    }
    *at = to + usize::from(braced);
    Some(chars[from..to].iter().collect())
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&(usize, Token)> {
        self.tokens.get(self.at)
    }

    /// The next token's text if it is a bare word, which is what keywords are.
    fn bare(&self) -> Option<&str> {
        match self.peek() {
            Some((_, Token::Word(word))) => match word.as_slice() {
                [
                    Piece::Text {
                        text,
                        quoted: false,
                    },
                ] => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    fn line(&self) -> usize {
        self.peek()
            .or(self.tokens.last())
            .map_or(1, |(line, _)| *line)
    }

    fn skip_ends(&mut self) {
        while let Some((_, Token::End)) = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, keyword: &str) -> Result<(), String> {
        self.skip_ends();
        if self.bare() == Some(keyword) {
            self.at += 1;
            return Ok(());
        }
        Err(format!("line {}: `{keyword}` is missing", self.line()))
    }

    /// Statements up to one of `ends`, a closing brace, or the end of the script.
    fn block(&mut self, ends: &[&str]) -> Result<Block, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!(
                "line {}: blocks are nested deeper than {MAX_DEPTH}",
                self.line()
            ));
        }
        let mut statements = Vec::new();
        loop {
            self.skip_ends();
            match self.peek() {
                None | Some((_, Token::Close)) => break,
                Some((line, Token::Open)) => {
                    return Err(format!("line {line}: a brace without a command"));
                }
                Some(_) if self.bare().is_some_and(|word| ends.contains(&word)) => break,
                Some(_) => statements.push(self.statement()?),
            }
        }
        self.depth -= 1;
        Ok(Rc::new(statements))
    }

    fn braced(&mut self) -> Result<Block, String> {
        let line = self.line();
        self.skip_ends();
        if !matches!(self.peek(), Some((_, Token::Open))) {
            return Err(format!("line {line}: `{{` is missing"));
        }
        self.at += 1;
        let block = self.block(&[])?;
        if !matches!(self.peek(), Some((_, Token::Close))) {
            return Err(format!("line {line}: this block is never closed"));
        }
        self.at += 1;
        Ok(block)
    }

    fn statement(&mut self) -> Result<Statement, String> {
        match self.bare() {
            Some("if") => self.conditional(),
            Some("for") => {
                self.at += 1;
                let name = self.bare().unwrap_or_default().to_owned();
                self.at += 1;
                self.expect("in")?;
                let words = self.words();
                self.expect("do")?;
                let body = self.block(&["done"])?;
                self.expect("done")?;
                Ok(Statement::For { name, words, body })
            }
            Some(keyword @ ("while" | "until")) => {
                let until = keyword == "until";
                self.at += 1;
                let condition = self.block(&["do"])?;
                self.expect("do")?;
                let body = self.block(&["done"])?;
                self.expect("done")?;
                Ok(Statement::While {
                    condition,
                    body,
                    until,
                })
            }
            Some("function") => {
                self.at += 1;
                let name = self.bare().unwrap_or_default().to_owned();
                self.at += 1;
                Ok(Statement::Function {
                    name,
                    body: self.braced()?,
                })
            }
            _ => {
                let words = self.words();
                let block = match self.peek() {
                    Some((_, Token::Open)) => Some(self.braced()?),
                    _ => None,
                };
                Ok(Statement::Command(words, block))
            }
        }
    }

    fn conditional(&mut self) -> Result<Statement, String> {
        let mut branches = Vec::new();
        loop {
            self.at += 1; // `if` or `elif`
            let condition = self.block(&["then"])?;
            self.expect("then")?;
            let body = self.block(&["elif", "else", "fi"])?;
            branches.push((condition, body));
            if self.bare() != Some("elif") {
                break;
            }
        }
        let mut otherwise = Block::default();
        if self.bare() == Some("else") {
            self.at += 1;
            otherwise = self.block(&["fi"])?;
        }
        self.expect("fi")?;
        Ok(Statement::If {
            branches,
            otherwise,
        })
    }

    fn words(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some((_, Token::Word(word))) = self.peek() {
            words.push(word.clone());
            self.at += 1;
        }
        words
    }
}
