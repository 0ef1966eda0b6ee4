//! `[backup]`: when and how gently agents image their servers.

use std::fmt;

use relevo_wire::calendar::CalendarEvent;
use relevo_wire::policy::{BackupPolicy, CpuCeiling, LineCeiling, Pressure, Window};
use relevo_wire::zone::Zone;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Rate, Span};

/// The section as it is written. What is not given comes from a less particular section, in the
/// end from [`BackupPolicy::default`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Backup {
    /// How old the newest state may become.
    pub rpo: Option<Span>,
    /// When images are taken.
    #[serde(deserialize_with = "one_or_more")]
    pub calendar: Option<Vec<CalendarEvent>>,
    /// Whose clock counts; the server's own by default.
    pub time_zone: Option<Zone>,
    /// When images may be taken.
    #[serde(deserialize_with = "one_or_more")]
    pub window: Option<Vec<Window>>,
    /// How fast is sent.
    #[serde(deserialize_with = "one_or_more")]
    pub line: Option<Vec<LineCeiling>>,
    /// How fast disks are read.
    pub read_rate: Option<Rate>,
    /// How much of the processors is used.
    pub cpu: Option<CpuCeiling>,
    /// How often a run that failed is tried again.
    pub retries: Option<u32>,
    /// Before the first time.
    pub retry_after: Option<Span>,
    /// Over how long servers are spread.
    pub spread: Option<Span>,
    /// When a server counts as busy.
    pub pressure: Option<Pressure>,
    /// How long file systems may be frozen.
    pub max_freeze: Option<Span>,
    /// How often what was marked as changed is proved.
    pub proof_every: Option<Span>,
}

/// A text, or a list of them.
fn one_or_more<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: fmt::Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        More(Vec<String>),
    }
    let texts = match Texts::deserialize(deserializer) {
        Ok(Texts::One(text)) => vec![text],
        Ok(Texts::More(texts)) => texts,
        Err(_) => {
            return Err(serde::de::Error::custom(
                "a text or a list of texts is wanted",
            ));
        }
    };
    let parsed: Result<Vec<T>, _> = texts.iter().map(|text| text.parse()).collect();
    parsed.map(Some).map_err(serde::de::Error::custom)
}

/// Where a key's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The key.
    pub key: &'static str,
    /// Its value, for people.
    pub value: String,
    /// The section, in words; `default` when none gives it.
    pub from: String,
}

/// A policy with where each part of it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// What counts.
    pub policy: BackupPolicy,
    /// Why.
    pub origins: Vec<Origin>,
}

impl Backup {
    /// What is wrong with the values together.
    pub(super) fn check(&self) -> Result<(), String> {
        let seconds = |span: Option<Span>| span.map(|span| span.duration().as_secs());
        if seconds(self.rpo) == Some(0) {
            return Err("[backup] rpo: no state is of no age; write for instance 15m".into());
        }
        if self.calendar.as_ref().is_some_and(Vec::is_empty) {
            return Err(
                "[backup] calendar: with no event there is no image; leave the key out, \
                        or write for instance \"daily\""
                    .into(),
            );
        }
        if seconds(self.retry_after) == Some(0) {
            return Err(
                "[backup] retry-after: write for instance 10m; retries = 0 tries once".into(),
            );
        }
        if seconds(self.max_freeze) == Some(0) {
            return Err("[backup] max-freeze: write for instance 10s".into());
        }
        let pressure = self.pressure.unwrap_or_default();
        if [pressure.io, pressure.cpu, pressure.memory]
            .iter()
            .any(|p| *p > 100)
        {
            return Err("[backup] pressure: per cent are at most 100, and 0 never counts".into());
        }
        Ok(())
    }

    fn has_schedule(&self) -> bool {
        self.rpo.is_some() || self.calendar.is_some()
    }
}

/// What counts, of sections from the most particular to the general one, key by key. Target and
/// calendar are one thing: a section that gives either gives both.
pub(super) fn resolve(sections: &[(String, &Backup)]) -> Resolved {
    let mut policy = BackupPolicy::default();
    let mut origins = Vec::new();
    let mut note = |key, value: String, from: &str| {
        let from = from.to_string();
        origins.push(Origin { key, value, from });
    };
    macro_rules! take {
        ($key:literal, $field:ident, $show:expr, $into:expr) => {{
            let given = sections.iter();
            let found = given
                .filter_map(|(from, s)| Some((from, s.$field.clone()?)))
                .next();
            let from = match found {
                Some((from, value)) => {
                    policy.$field = $into(value);
                    from.as_str()
                }
                None => "default",
            };
            note($key, $show(&policy.$field), from);
        }};
    }
    let schedule = sections.iter().find(|(_, section)| section.has_schedule());
    if let Some((_, section)) = schedule {
        policy.rpo = section.rpo.map(seconds);
        policy.calendar = section.calendar.clone().unwrap_or_default();
    }
    let from = schedule.map_or("default", |(from, _)| from);
    note("rpo", policy.rpo.map_or("none".into(), span), from);
    note("calendar", list(&policy.calendar), from);
    take!("time-zone", time_zone, own_zone, Some);
    take!("window", window, list, |w| w);
    take!("line", line, list, |l| l);
    take!("read-rate", read_rate, rate, |r: Rate| Some(
        r.bytes_per_second()
    ));
    take!("cpu", cpu, cpu_text, Some);
    take!("retries", retries, u32::to_string, |r| r);
    take!("retry-after", retry_after, |s: &u64| span(*s), seconds);
    take!("spread", spread, |s: &u64| span(*s), seconds);
    take!("pressure", pressure, pressure_text, |p| p);
    let millis = |s: Span| seconds(s).saturating_mul(1000);
    take!("max-freeze", max_freeze, |m: &u64| span(*m / 1000), millis);
    take!("proof-every", proof_every, |s: &u64| span(*s), seconds);
    Resolved { policy, origins }
}

fn seconds(span: Span) -> u64 {
    span.duration().as_secs()
}

fn span(seconds: u64) -> String {
    Span::from_secs(seconds).to_string()
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(T::to_string).collect();
    match texts.is_empty() {
        true => "none".into(),
        false => texts.join("; "),
    }
}

fn own_zone(zone: &Option<Zone>) -> String {
    zone.as_ref().map_or("the server's".into(), Zone::to_string)
}

fn rate(rate: &Option<u64>) -> String {
    let shown = |rate| Rate::from_bytes_per_second(rate).to_string();
    rate.map_or("none".into(), shown)
}

fn cpu_text(cpu: &Option<CpuCeiling>) -> String {
    cpu.map_or("none".into(), |cpu| cpu.to_string())
}

fn pressure_text(pressure: &Pressure) -> String {
    let Pressure { io, cpu, memory } = pressure;
    format!("io {io}%, cpu {cpu}%, memory {memory}%")
}
