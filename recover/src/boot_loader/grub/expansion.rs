//! What words of a script stand for, and which files its paths name.

use super::shell::Shell;
use super::syntax::{Piece, Word};

impl Shell<'_> {
    /// Value of a variable or positional argument.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        match name {
            "@" | "*" => Some(self.arguments.join(" ")),
            "#" => Some(self.arguments.len().to_string()),
            _ => match name.parse::<usize>() {
                Ok(index) => index
                    .checked_sub(1)
                    .and_then(|i| self.arguments.get(i))
                    .cloned(),
                Err(_) => self.variables.get(name).cloned(),
            },
        }
    }

    /// Expands variables in text that is not part of the script, as `blscfg` does with options.
    pub(super) fn expand_text(&mut self, text: &str) -> Result<Vec<String>, String> {
        let mut words = Vec::new();
        for word in text.split_whitespace() {
            let Some(name) = word.strip_prefix('$') else {
                words.push(word.to_owned());
                continue;
            };
            let value = self
                .variable(name.trim_matches(['{', '}']))
                .unwrap_or_default();
            self.charge(value.len())?;
            words.extend(value.split_whitespace().map(str::to_owned));
        }
        Ok(words)
    }

    pub(super) fn expand_all(&mut self, words: &[Word]) -> Result<Vec<String>, String> {
        let mut results = Vec::new();
        for word in words {
            self.expand(word, &mut results)?;
        }
        Ok(results)
    }

    /// Adds what a word stands for: unquoted values become several words.
    fn expand(&mut self, word: &Word, results: &mut Vec<String>) -> Result<(), String> {
        let mut current: Option<String> = None;
        for piece in word {
            match piece {
                Piece::Text { text, .. } => {
                    self.charge(text.len())?;
                    current.get_or_insert_default().push_str(text);
                }
                Piece::Variable { name, quoted } => {
                    let value = self.variable(name).unwrap_or_default();
                    self.charge(value.len())?;
                    if *quoted {
                        current.get_or_insert_default().push_str(&value);
                        continue;
                    }
                    for (index, part) in value.split_whitespace().enumerate() {
                        if index > 0 {
                            results.extend(current.take());
                        }
                        current.get_or_insert_default().push_str(part);
                    }
                }
            }
        }
        results.extend(current);
        Ok(())
    }

    /// A path with its device: `(hd0,gpt1)/boot/vmlinuz`, so that a later `root` does not change it.
    pub(super) fn pinned(&self, path: &str) -> String {
        if path.starts_with('(') {
            path.to_owned()
        } else {
            format!("({}){path}", self.root())
        }
    }

    fn root(&self) -> String {
        self.variable("root")
            .unwrap_or_default()
            .trim_matches(['(', ')'])
            .to_owned()
    }

    /// Splits a path into device and path on it.
    pub(super) fn split<'p>(&self, path: &'p str) -> (String, &'p str) {
        match path.strip_prefix('(').and_then(|p| p.split_once(')')) {
            Some((device, path)) => (device.to_owned(), path),
            None => (self.root(), path),
        }
    }

    pub(super) fn read(&self, path: &str) -> Option<Vec<u8>> {
        let (device, path) = self.split(path);
        self.world.read(&device, path)
    }

    /// Whether a path exists, and if so whether it is a directory.
    pub(super) fn exists(&self, path: &str) -> Option<bool> {
        let (device, path) = self.split(path);
        self.world.is_directory(&device, path)
    }
}
