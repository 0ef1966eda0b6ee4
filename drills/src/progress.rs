//! What a person sees while a drill goes on: a spinner on a terminal, plain lines elsewhere.
//!
//! Always on standard error, so that standard output has nothing but results.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::plan::in_words;

/// Hears of the drill's progress.
pub trait Progress {
    /// Something begins that may take time.
    fn begin(&mut self, what: &str);
    /// News of what has begun, such as the last answer.
    fn news(&mut self, what: &str);
    /// What had begun ended.
    fn end(&mut self, ok: bool, what: &str);
}

/// Shows progress on standard error.
pub struct Terminal {
    started: Instant,
    bar: Option<ProgressBar>,
    last_news: String,
}

impl Terminal {
    /// Fitting for what standard error is.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4}  {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            started: Instant::now(),
            bar,
            last_news: String::new(),
        }
    }

    fn line(&self, sign: &str, what: &str) {
        let line = format!(
            "{:>9}  {sign} {}",
            in_words(self.started.elapsed()),
            plain(what)
        );
        match &self.bar {
            Some(bar) => bar.suspend(|| write_line(&line)),
            None => write_line(&line),
        }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Terminal {
    fn begin(&mut self, what: &str) {
        self.last_news.clear();
        match &self.bar {
            Some(bar) => bar.set_message(plain(what)),
            None => self.line("..", what),
        }
    }

    fn news(&mut self, what: &str) {
        // Attempts repeat themselves; a log file needs each answer once.
        if self.last_news == what {
            return;
        }
        self.last_news = what.to_owned();
        match &self.bar {
            Some(bar) => bar.set_message(plain(what)),
            None => self.line("  ", what),
        }
    }

    fn end(&mut self, ok: bool, what: &str) {
        self.line(if ok { "ok" } else { "!!" }, what);
    }
}

/// A line that cannot be written has nobody to read it.
fn write_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Text of a guest without what could steer a terminal, and no longer than a few lines.
fn plain(text: &str) -> String {
    text.chars()
        .take(300)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
