//! The bar that a person watches; nothing where nobody does.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::pipeline::Counters;

/// A bar over `disk` bytes on standard error, when that is a terminal and `wanted`. Hold the
/// guard as long as it shall be seen.
pub fn show(disk: u64, counters: &Arc<Counters>, wanted: bool) -> Progress {
    if !wanted || !std::io::stderr().is_terminal() {
        return Progress(None);
    }
    let bar = ProgressBar::with_draw_target(Some(disk), ProgressDrawTarget::stderr());
    let layout = "{bar:32} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} {eta}";
    if let Ok(style) = ProgressStyle::with_template(layout) {
        bar.set_style(style);
    }
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
            bar.finish_and_clear();
        }
    }
}
