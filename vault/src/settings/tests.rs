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
