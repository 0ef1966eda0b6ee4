//! A script cut into words: quotes, variables, comments and what separates commands.

pub(super) type Word = Vec<Piece>;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// Text; quoted text keeps a word alive even when empty.
    Text { text: String, quoted: bool },
    /// `$name`; unquoted values are split at blanks.
    Variable { name: String, quoted: bool },
}

#[derive(Debug, Clone)]
pub(super) enum Token {
    Word(Word),
    End,
    Open,
    Close,
}

/// Cuts a script, with the line of each token.
pub(super) fn tokens(text: &str) -> Vec<(usize, Token)> {
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
