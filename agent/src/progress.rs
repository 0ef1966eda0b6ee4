//! The bar that a person watches; nothing where nobody does. Log lines step in front of it.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::pipeline::Counters;

/// The bar that is on the terminal, for those who write there too.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn shown() -> MutexGuard<'static, Option<ProgressBar>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bar over `disk` bytes on standard error, when that is a terminal: it is apart from what
/// programs read, which goes to standard output. Hold the guard as long as it shall be seen.
pub fn show(disk: u64, counters: &Arc<Counters>) -> Progress {
    if !io::stderr().is_terminal() {
        return Progress(None);
    }
    let bar = ProgressBar::with_draw_target(Some(disk), ProgressDrawTarget::stderr());
    let layout = "{bar:32} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} {eta}";
    if let Ok(style) = ProgressStyle::with_template(layout) {
        bar.set_style(style);
    }
    *shown() = Some(bar.clone());
    let (watched, counters) = (bar.clone(), counters.clone());
    let task = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tick.tick().await;
            watched.set_position(Counters::get(&counters.done));
            let sent = HumanBytes(Counters::get(&counters.sent));
            watched.set_message(format!("{sent} sent"));
        }
    });
    Progress(Some((bar, task)))
}

/// Takes the bar away when dropped.
pub struct Progress(Option<(ProgressBar, tokio::task::JoinHandle<()>)>);

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((bar, task)) = self.0.take() {
            task.abort();
            *shown() = None;
            bar.finish_and_clear();
        }
    }
}

/// Log lines that wait, while nothing may be written: standard error may be a file.
static WAITING: Mutex<Option<Vec<u8>>> = Mutex::new(None);
/// Most bytes of them.
const MOST_WAITING: usize = 64 << 10;

fn waiting() -> MutexGuard<'static, Option<Vec<u8>>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has log lines wait until the guard is dropped. What is over 64 KiB of them is lost.
pub fn hold_log() -> HeldLog {
    waiting().get_or_insert_default();
    HeldLog
}

/// Writes the lines that waited when dropped.
#[must_use]
pub struct HeldLog;

impl Drop for HeldLog {
    fn drop(&mut self) {
        // Whoever writes looks there too.
        let lines = waiting().take();
        if let Some(lines) = lines {
            // There is nobody to tell of it.
            let _ = LogOutput.write_all(&lines);
        }
    }
}

/// Standard error for log lines: the bar is taken away for each and drawn again below it.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOutput;

impl Write for LogOutput {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(lines) = waiting().as_mut() {
            let room = MOST_WAITING.saturating_sub(lines.len());
            lines.extend_from_slice(&line[..line.len().min(room)]);
            return Ok(line.len());
        }
        let bar = shown().clone();
        match bar {
            Some(bar) => bar.suspend(|| io::stderr().write_all(line))?,
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
