//! Images of servers that go on: of one instant, proved by files that agree at no other, and by a
//! database's own checks; and servers that go on whatever befalls the agent.

mod database;
mod guard;
mod hooks;
mod reach;
mod server;
mod writers;

use relevo_tests::suite::{Need, Suite};
use serde_json::Value;
use server::Server;
use writers::{Writers, assert_of_one_instant};

/// Guards the promise: under many writers that wait for the disk each time, the image is of one
/// instant, its file system is sound, and the point says so.
fn under_writers(kind: &'static str) {
    let mut server = Server::new(kind, 512);
    let writers = Writers::start(server.path());
    let report = server.backup(&[]);
    assert_frozen(&report, &server);
    writers.let_write(50);
    // The second reads only what was written since.
    let report = server.backup(&[]);
    assert_frozen(&report, &server);
    assert_eq!(report["tracking"][0]["read"], "changes", "{report}");
    let inspected = server.inspect();
    assert_eq!(inspected["consistency"], "file-system");
    assert_eq!(inspected["held"]["freeze_ms"], report["freeze_ms"]);
    assert_eq!(inspected["taken"], report["instant"]);
    writers.stop();
    server.lose_and_restore();
    assert_of_one_instant(server.path());
}

fn assert_frozen(report: &Value, server: &Server) {
    assert_eq!(report["consistency"], "file-system", "{report}");
    let point = server.path().to_string_lossy();
    assert_eq!(report["frozen"], serde_json::json!([point]), "{report}");
    let limit_ms = 10_000;
    assert!(
        report["freeze_ms"]
            .as_u64()
            .is_some_and(|ms| ms <= limit_ms),
        "{report}"
    );
    let reasons = report["reasons"].to_string();
    assert!(reasons.contains("hook"), "{report}");
}

fn main() {
    let mut suite = Suite::default();
    let kernel = || [Need::root(), Need::tracepoints()];
    for kind in ["ext4", "xfs", "btrfs"] {
        let name = format!("an_image_of_{kind}_under_writers_is_of_one_instant");
        suite = suite.case_with(&name, &kernel(), move || under_writers(kind));
    }
    suite = database::cases(suite);
    suite = hooks::cases(suite);
    suite = reach::cases(suite);
    guard::cases(suite).run()
}
