//! The grammar of GRUB scripts (GRUB manual, "GRUB's script-like configuration").

use std::rc::Rc;

pub(super) use super::tokens::{Piece, Word};
use super::tokens::{Token, tokens};

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
