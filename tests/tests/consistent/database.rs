//! A database's own word on its image.

use std::path::{Path, PathBuf};
use std::process::Command;

use relevo_tests::filesystems::run;
use relevo_tests::program::{Running, finish, wait_while};
use relevo_tests::suite::{Need, Suite};

use super::server::Server;

/// Debian's PostgreSQL, run by its ordinary user.
struct Postgres {
    programs: PathBuf,
    data: PathBuf,
    /// Its socket's directory, and its log.
    aside: tempfile::TempDir,
}

impl Postgres {
    fn over(dir: &Path) -> Self {
        let versions = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten();
        let newest = versions
            .map(|v| v.path().join("bin"))
            .filter(|b| b.join("initdb").exists())
            .max();
        let aside = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        run("chown", &["postgres", &aside.path().to_string_lossy()]);
        Self {
            programs: newest.unwrap_or_else(|| panic!("PostgreSQL is not installed")),
            data: dir.join("data"),
            aside,
        }
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]);
        command.arg(self.programs.join(program)).args(args);
        command.current_dir("/").env("PGHOST", self.aside.path());
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        finish(self.command(program, args)).expect_success()
    }

    fn sql(&self, text: &str) -> String {
        let args = [
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            "postgres",
            "-c",
            text,
        ];
        self.run("psql", &args).trim().to_string()
    }

    fn data(&self) -> String {
        self.data.to_string_lossy().into_owned()
    }

    fn create(&self) {
        std::fs::create_dir(&self.data).unwrap_or_else(|e| panic!("{e}"));
        run("chown", &["postgres", &self.data()]);
        self.run(
            "initdb",
            &["--data-checksums", "--auth=trust", "-D", &self.data()],
        );
    }

    fn start(&self) {
        let socket = self.aside.path().to_string_lossy();
        let options = format!("-k {socket} -h '' -c checkpoint_timeout=30s -c max_wal_size=64MB");
        let log = self.aside.path().join("log").to_string_lossy().into_owned();
        let data = self.data();
        let args = ["-D", &data, "-o", &options, "-l", &log, "-w", "start"];
        let started = finish(self.command("pg_ctl", &args));
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(started.code, 0, "{started:?}; its log: {said}");
    }

    fn stop(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "fast", "-w", "stop"]);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self
            .command("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"])
            .output();
    }
}

/// Guards what servers are imaged for: PostgreSQL under load starts from its image, its books
/// balance, its indexes know every row, and no page of it is torn.
fn a_database_under_load_balances() {
    let mut server = Server::new("ext4", 1024);
    let database = Postgres::over(server.path());
    database.create();
    database.start();
    database.run("pgbench", &["-q", "-i", "-s", "4", "postgres"]);
    let socket = database.aside.path().to_string_lossy().into_owned();
    let checkpoint =
        format!("runuser -u postgres -- psql -XAtq -h {socket} -d postgres -c CHECKPOINT");
    server.hook("pre.d/50-postgresql", &checkpoint);
    let mut load = Running::start(database.command(
        "pgbench",
        &["-n", "-c", "6", "-j", "2", "-T", "3600", "postgres"],
    ));
    let rows = || {
        database
            .sql("SELECT count(*) FROM pgbench_history")
            .parse::<u64>()
            .unwrap_or(0)
    };
    wait_while(|| rows() < 200);
    let first = server.backup(&[]);
    let until = rows() + 200;
    wait_while(|| rows() < until);
    let report = server.backup(&[]);
    for report in [&first, &report] {
        assert_eq!(report["consistency"], "application", "{report}");
        assert!(
            report["reasons"].as_array().is_some_and(Vec::is_empty),
            "{report}"
        );
    }
    assert_eq!(report["tracking"][0]["read"], "changes", "{report}");
    eprintln!(
        "frozen for {} and {} ms",
        first["freeze_ms"], report["freeze_ms"]
    );
    load.kill();
    database.stop();
    server.lose_and_restore();

    let database = Postgres::over(server.path());
    // On a recovered server no process has the number in it. Here the old one may not have been
    // collected yet.
    let lock = database.data.join("postmaster.pid");
    std::fs::remove_file(lock).unwrap_or_else(|e| panic!("{e}"));
    database.start();
    let sums = database.sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM \
         pgbench_branches), (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM \
         pgbench_history), (SELECT count(*) FROM pgbench_history)",
    );
    let sums: Vec<_> = sums.split('|').collect();
    assert!(
        sums[..4].iter().all(|sum| *sum == sums[0]),
        "the books do not balance: {sums:?}"
    );
    assert!(
        sums[4].parse::<u64>().is_ok_and(|rows| rows >= 400),
        "{sums:?}"
    );
    database.sql("CREATE EXTENSION amcheck");
    let checked = database.sql(
        "SELECT count(bt_index_check(c.oid, i.indisunique)) FROM pg_index i JOIN pg_class c ON \
         c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND \
         i.indisready AND i.indisvalid AND c.relpersistence <> 't'",
    );
    assert!(
        checked.parse::<u64>().is_ok_and(|count| count > 50),
        "{checked}"
    );
    let heap = "SELECT count(*) FROM (SELECT verify_heapam(c.oid) FROM pg_class c WHERE \
                c.relkind = 'r') AS faults";
    assert_eq!(database.sql(heap), "0", "the tables have faults");
    database.stop();
    database.run("pg_checksums", &["--check", "-D", &database.data()]);
}

pub fn cases(suite: Suite) -> Suite {
    let needs = [
        Need::root(),
        Need::tracepoints(),
        Need::program("pg_lsclusters"),
    ];
    suite.case_with(
        "a_database_under_load_balances",
        &needs,
        a_database_under_load_balances,
    )
}
