#![allow(clippy::unwrap_used)]
use relevo_wire::{ServerId, TenantId};

use super::*;
use crate::retention::Count;

#[test]
fn an_empty_file_is_the_defaults() {
    let settings = Settings::parse("").unwrap();
    assert_eq!(settings, Settings::default());
    assert!(settings.retention.policy().is_empty());
    assert_eq!(settings.immutability.days, 0);
    assert_eq!(settings.collect.grace, Span::from_hours(24));
    assert_eq!(settings.scrub.every_days.get(), 30);
    assert_eq!(settings.scrub.rate.to_string(), "100 MiB/s");
    assert_eq!(settings.parity, None);
    assert_eq!(settings.quota, Quota::default());
}

/// Guards the page that operators copy from.
#[test]
fn the_documented_example_is_read() {
    let page = include_str!("../../../docs/settings.md");
    let example = page.split("```toml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let settings = Settings::parse(example).unwrap();
    assert_eq!(settings.tenant.len(), 1);
    assert_eq!(settings.server.len(), 1);
    assert_eq!(settings.heal_from.len(), 1);
    assert!(settings.parity.is_some());
    // Every section stands in the example.
    let shown = toml::Table::try_from(&settings).unwrap();
    for section in shown.keys() {
        assert!(page.contains(&format!("[{section}]")), "{section}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let cases = [
        ("\n[retention]\nkeep-dayly = 7\n", "line 3", "keep-dayly"),
        ("[retenton]\n", "line 1", "retenton"),
        ("[collect]\ngrace = \"7 moons\"\n", "line 2", "7 moons"),
        (
            "[retention]\ntime-zone = \"Mars/Olympus\"\n",
            "line 2",
            "Mars/Olympus",
        ),
        ("[retention]\nkeep-within = \"3m\"\n", "line 2", "3mo"),
        ("[retention]\nkeep-last = -1\n", "line 2", "keep-last"),
        ("[scrub]\nrate = 5\n", "line 2", "rate"),
        ("[scrub]\nevery-days = 0\n", "line 2", "every-days"),
        ("[immutability]\ndays = 14 days\n", "line 2", "14 days"),
        ("[collect]\nrewrite-at = 1.5\n", "[collect]", "1.5"),
        (
            "[[server]]\n[server.immutability]\ndays = 1\n",
            "[[server]]",
            "id",
        ),
        (
            "[[server]]\nname = \"a\"\n[[server]]\nname = \"a\"\n",
            "'a'",
            "twice",
        ),
    ];
    for (text, place, what) in cases {
        let error = Settings::parse(text).unwrap_err();
        assert!(error.contains(place), "{error}");
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn the_most_particular_section_counts() {
    let (tenant, other) = (TenantId::random(), TenantId::random());
    let server = ServerId::random();
    let settings = Settings::parse(&format!(
        r#"
        [retention]
        keep-daily = 7
        time-zone = "Europe/Berlin"
        [immutability]
        days = 3
        [quota]
        stored = "1 TiB"
        rate = "10 MiB/s"
        [[tenant]]
        id = "{tenant}"
        quota = {{ stored = "2 TiB" }}
        retention = {{ keep-weekly = 4 }}
        [[server]]
        name = "db1"
        retention = {{ keep-last = 2, time-zone = "UTC" }}
        [[server]]
        id = "{server}"
        immutability = {{ days = 30 }}
        [[server]]
        name = "db1"
        tenant = "{other}"
        retention = {{ keep-yearly = "all" }}
        "#
    ))
    .unwrap();
    let ask = |tenant, server, name| {
        let whose = Whose {
            tenant,
            server,
            name,
        };
        (settings.policy(whose), settings.immutability(whose).days)
    };
    let random = ServerId::random();
    let (policy, days) = ask(TenantId::random(), random, "web");
    assert_eq!((policy.daily, days), (Count::Number(7), 3));
    let (policy, days) = ask(tenant, random, "web");
    assert_eq!(
        (policy.daily, policy.weekly),
        (Count::NONE, Count::Number(4))
    );
    assert_eq!((policy.time_zone.name(), days), ("Europe/Berlin", 3));
    let (policy, days) = ask(tenant, server, "db1");
    assert_eq!(
        (policy.last, policy.weekly),
        (Count::Number(2), Count::NONE)
    );
    assert_eq!((policy.time_zone.name(), days), ("UTC", 30));
    let (policy, _) = ask(other, random, "db1");
    assert_eq!((policy.last, policy.yearly), (Count::NONE, Count::All));
    let quota = settings.quota(tenant);
    assert_eq!(quota.stored.unwrap().to_string(), "2 TiB");
    assert_eq!(quota.rate.unwrap().to_string(), "10 MiB/s");
}

/// Guards a running vault against a slip of the pen, and against missing an edit.
#[test]
fn a_changed_file_is_read_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = Settings::path_in(dir.path());
    let watch = SettingsWatch::open(dir.path()).unwrap();
    assert_eq!(watch.now().immutability.days, 0);
    std::fs::write(&path, "[immutability]\ndays = 14\n").unwrap();
    assert_eq!(watch.now().immutability.days, 14);
    std::fs::write(&path, "[immutability]\ndays = fourteen\n").unwrap();
    assert_eq!(watch.now().immutability.days, 14);
    assert!(SettingsWatch::open(dir.path()).is_err());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(watch.now().immutability.days, 0);
}

/// Guards the schedule of one server against parts of another's: target and calendar go together,
/// all else key by key; and says for each key which section it is from.
#[test]
fn backup_goes_key_by_key_but_for_the_schedule() {
    let (tenant, server) = (TenantId::random(), ServerId::random());
    let settings = Settings::parse(&format!(
        r#"
        [backup]
        rpo = "1h"
        line = "100 Mbit/s"
        read-rate = "50 MiB/s"
        [[tenant]]
        id = "{tenant}"
        backup = {{ calendar = ["daily", "Sat 12:00"], cpu = "25%" }}
        [[server]]
        name = "db1"
        backup = {{ rpo = "15m", line = ["10 Mbit/s", "22:00-06:00 1 Gbit/s"] }}
        [[server]]
        id = "{server}"
        backup = {{ retries = 0, pressure = {{ io = 0 }} }}
        "#
    ))
    .unwrap();
    let ask = |tenant, server, name| {
        settings.backup(Whose {
            tenant,
            server,
            name,
        })
    };
    let random = ServerId::random();
    let general = ask(TenantId::random(), random, "web").policy;
    assert_eq!((general.rpo, general.retries), (Some(3600), 3));
    assert_eq!(general.read_rate, Some(50 << 20));
    let tenants = ask(tenant, random, "web").policy;
    assert_eq!((tenants.rpo, tenants.calendar.len()), (None, 2));
    assert_eq!(tenants.line, general.line);
    let resolved = ask(tenant, server, "db1");
    let own = &resolved.policy;
    assert_eq!(
        (own.rpo, own.calendar.len(), own.retries),
        (Some(900), 0, 0)
    );
    assert_eq!((own.line.len(), own.read_rate), (2, Some(50 << 20)));
    assert_eq!((own.pressure.io, own.pressure.cpu), (0, 80));
    let from = |key: &str| {
        let origins = resolved.origins.iter();
        let from = origins.filter(|origin| origin.key == key);
        from.map(|origin| origin.from.as_str()).collect::<String>()
    };
    assert_eq!(from("rpo"), "[[server]] 'db1'");
    assert_eq!(from("retries"), format!("[[server]] {server}"));
    assert_eq!(from("cpu"), format!("[[tenant]] {tenant}"));
    assert_eq!(from("read-rate"), "[backup]");
    assert_eq!(from("spread"), "default");
    // Every part of a policy has its origin.
    let parts = toml::Table::try_from(own).unwrap();
    let named: Vec<_> = resolved.origins.iter().map(|o| o.key).collect();
    assert!(parts.keys().all(|key| named.contains(&key.as_str())));
}

/// Guards agents against settings that nobody could obey.
#[test]
fn a_schedule_that_is_none_is_refused() {
    for (text, place, what) in [
        (
            "[backup]\ncalendar = \"Fri..Mon\"\n",
            "line 2",
            "calendar event",
        ),
        ("[backup]\ncalendar = [7]\n", "line 2", "list of texts"),
        ("[backup]\ncalendar = []\n", "[backup]", "daily"),
        ("[backup]\nrpo = \"0s\"\n", "[backup]", "15m"),
        ("[backup]\nline = \"100 MiB/s\"\n", "line 2", "100 Mbit/s"),
        ("[backup]\nwindow = [\"20:00\"]\n", "line 2", "20:00-06:00"),
        ("[backup]\ncpu = \"0%\"\n", "line 2", "50% of one core"),
        ("[backup]\npressure = { io = 101 }\n", "[backup]", "100"),
        ("[backup]\npressure = { disk = 10 }\n", "line 2", "disk"),
        (
            "[backup]\nretry-after = \"0s\"\n",
            "[backup]",
            "retries = 0",
        ),
        ("[backup]\nmax-freeze = \"0s\"\n", "[backup]", "10s"),
        (
            "[[server]]\nname = \"a\"\nbackup = { rpo = \"0s\" }\n",
            "rpo",
            "15m",
        ),
    ] {
        let error = Settings::parse(text).unwrap_err();
        assert!(error.contains(place) && error.contains(what), "{error}");
    }
}
