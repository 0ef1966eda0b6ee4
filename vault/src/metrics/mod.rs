//! What the vault counts, in the names and units of Prometheus.
//!
//! One struct of counters that anybody increments by name; [`Metrics::families`] is the list of
//! what there is, from which the text for Prometheus and the facts of `status` are made. A
//! counter begins at zero with the process. The handbook explains each.

mod exposition;
mod http;
mod number;

use relevo_wire::message::{Refusal, RefusalCode};

use crate::ingest::Kind;

pub use exposition::{Family, Value, text};
pub use http::MetricsServer;
pub use number::{Counter, Gauge, Held};

/// Requests of one kind.
#[derive(Debug, Default)]
pub struct Requests {
    answered: Counter,
    refused: Counter,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: [Requests; Kind::ALL.len()],
    refusals: [Counter; RefusalCode::KNOWN.len()],
    /// Sealed bytes of chunks that came in.
    pub received_bytes: Counter,
    /// Sealed bytes of chunks that went out.
    pub sent_bytes: Counter,
    /// Bytes of packs that were written for them.
    pub stored_bytes: Counter,
    /// Connections that are open.
    pub connections: std::sync::Arc<Gauge>,
    /// Connections that were opened.
    pub connections_opened: Counter,
    /// Handshakes under way.
    pub handshakes: std::sync::Arc<Gauge>,
    /// Handshakes that came to nothing.
    pub handshake_failures: Counter,
    /// Half-open connections that were given up for newer ones.
    pub handshakes_evicted: Counter,
    /// Connections refused or closed because of some limit.
    pub connections_refused: Counter,
    /// Tokens, certificates and rights that were not good enough.
    pub authentication_failures: Counter,
    /// Recovery points that were committed.
    pub points_committed: Counter,
    /// Recovery points that were deleted.
    pub points_deleted: Counter,
    /// Deletions that hold, lock or rule forbade.
    pub deletions_refused: Counter,
    /// Pieces of packs that were found damaged.
    pub damage_found: Counter,
    /// Pieces of packs that were healed.
    pub damage_healed: Counter,
    /// Bytes that scrubbing read.
    pub scrubbed_bytes: Counter,
    /// Bytes that were not read for longer than promised.
    pub scrub_overdue: Gauge,
    /// Seconds since 1970 of the check that is longest ago.
    pub scrub_oldest: Gauge,
    /// Bytes of packs that collection freed.
    pub collected_bytes: Counter,
    /// Packs that collection retired.
    pub packs_retired: Counter,
    /// Bytes that collection copied to free others.
    pub rewritten_bytes: Counter,
    /// Puts that a quota refused.
    pub quota_refusals: Counter,
    /// Milliseconds that puts were made to wait for their rate.
    pub throttled_millis: Counter,
    /// Entries of the audit log.
    pub audit_entries: Gauge,
    /// Entries that the audit log could not take.
    pub audit_failures: Counter,
}

impl Metrics {
    /// Counts a request by what came of it.
    pub fn request<T>(&self, kind: Kind, done: &Result<T, Refusal>) {
        let requests = &self.requests[kind as usize];
        match done {
            Ok(_) => requests.answered.increment(),
            Err(_) => requests.refused.increment(),
        }
    }

    /// Counts a refusal, of whatever it was.
    pub fn refusal(&self, code: RefusalCode) {
        let known = RefusalCode::KNOWN.iter().position(|known| *known == code);
        if let Some(number) = known {
            self.refusals[number].increment();
        }
    }

    /// How many of a kind were answered and refused.
    pub fn requests(&self, kind: Kind) -> (u64, u64) {
        let requests = &self.requests[kind as usize];
        (requests.answered.get(), requests.refused.get())
    }

    /// Everything, by name.
    pub fn families(&self) -> Vec<Family> {
        let family = |name, kind, help, values| Family {
            name,
            help,
            kind,
            values,
        };
        let counter = |name, counter: &Counter, help| {
            family(name, "counter", help, Value::plain(counter.get()))
        };
        let requests = Kind::ALL.into_iter().flat_map(|kind| {
            let (answered, refused) = self.requests(kind);
            [("answered", answered), ("refused", refused)].map(|(result, value)| Value {
                labels: vec![("kind", kind.word().into()), ("result", result.into())],
                value: value as f64,
            })
        });
        let refusals = RefusalCode::KNOWN.into_iter().zip(&self.refusals);
        let refusals = refusals.map(|(code, n)| Value::labelled("code", code.word(), n.get()));
        vec![
            family(
                "relevo_vault_requests_total",
                "counter",
                "Requests by kind and result.",
                requests.collect(),
            ),
            family(
                "relevo_vault_refusals_total",
                "counter",
                "Refusals by code.",
                refusals.collect(),
            ),
            counter(
                "relevo_vault_received_bytes_total",
                &self.received_bytes,
                "Sealed bytes of chunks that came in.",
            ),
            counter(
                "relevo_vault_sent_bytes_total",
                &self.sent_bytes,
                "Sealed bytes of chunks that went out.",
            ),
            counter(
                "relevo_vault_stored_bytes_total",
                &self.stored_bytes,
                "Bytes of packs written for chunks that came in.",
            ),
            family(
                "relevo_vault_connections",
                "gauge",
                "Connections that are open.",
                Value::plain(self.connections.get()),
            ),
            counter(
                "relevo_vault_connections_opened_total",
                &self.connections_opened,
                "Connections that were opened.",
            ),
            family(
                "relevo_vault_handshakes",
                "gauge",
                "Handshakes under way.",
                Value::plain(self.handshakes.get()),
            ),
            counter(
                "relevo_vault_handshake_failures_total",
                &self.handshake_failures,
                "Handshakes that came to nothing.",
            ),
            counter(
                "relevo_vault_handshakes_evicted_total",
                &self.handshakes_evicted,
                "Half-open connections given up for newer ones.",
            ),
            counter(
                "relevo_vault_connections_refused_total",
                &self.connections_refused,
                "Connections refused because of a limit.",
            ),
            counter(
                "relevo_vault_authentication_failures_total",
                &self.authentication_failures,
                "Tokens, certificates and rights that were not good enough.",
            ),
            counter(
                "relevo_vault_points_committed_total",
                &self.points_committed,
                "Recovery points committed.",
            ),
            counter(
                "relevo_vault_points_deleted_total",
                &self.points_deleted,
                "Recovery points deleted.",
            ),
            counter(
                "relevo_vault_deletions_refused_total",
                &self.deletions_refused,
                "Deletions that a hold, a lock or a rule forbade.",
            ),
            counter(
                "relevo_vault_damage_found_total",
                &self.damage_found,
                "Pieces of packs found damaged.",
            ),
            counter(
                "relevo_vault_damage_healed_total",
                &self.damage_healed,
                "Pieces of packs healed.",
            ),
            counter(
                "relevo_vault_scrubbed_bytes_total",
                &self.scrubbed_bytes,
                "Bytes of packs read by scrubbing.",
            ),
            family(
                "relevo_vault_scrub_overdue_bytes",
                "gauge",
                "Bytes that were not read for longer than [scrub] every-days promises.",
                Value::plain(self.scrub_overdue.get()),
            ),
            family(
                "relevo_vault_scrub_oldest_timestamp_seconds",
                "gauge",
                "When the file was read whose check is longest ago.",
                Value::plain(self.scrub_oldest.get()),
            ),
            counter(
                "relevo_vault_collected_bytes_total",
                &self.collected_bytes,
                "Bytes of packs freed by collection.",
            ),
            counter(
                "relevo_vault_packs_retired_total",
                &self.packs_retired,
                "Packs retired by collection.",
            ),
            counter(
                "relevo_vault_rewritten_bytes_total",
                &self.rewritten_bytes,
                "Bytes copied by collection to free others.",
            ),
            counter(
                "relevo_vault_quota_refusals_total",
                &self.quota_refusals,
                "Puts refused by a quota.",
            ),
            family(
                "relevo_vault_throttled_seconds_total",
                "counter",
                "Time that puts were made to wait for their rate.",
                vec![Value {
                    labels: Vec::new(),
                    value: self.throttled_millis.get() as f64 / 1000.0,
                }],
            ),
            family(
                "relevo_vault_audit_entries",
                "gauge",
                "Entries of the audit log.",
                Value::plain(self.audit_entries.get()),
            ),
            counter(
                "relevo_vault_audit_failures_total",
                &self.audit_failures,
                "Entries that the audit log could not take.",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn requests_count_by_kind_result_and_code() {
        let metrics = Metrics::default();
        metrics.request(Kind::Get, &Ok(()));
        let refused = Refusal::new(RefusalCode::Quota, "full", "less");
        metrics.refusal(refused.code);
        metrics.request(Kind::Put, &Err::<(), _>(refused));
        let held = metrics.connections.hold();
        let text_now = text(&metrics.families());
        for line in [
            "# TYPE relevo_vault_requests_total counter",
            "relevo_vault_requests_total{kind=\"get\",result=\"answered\"} 1",
            "relevo_vault_requests_total{kind=\"put\",result=\"refused\"} 1",
            "relevo_vault_refusals_total{code=\"quota\"} 1",
            "relevo_vault_connections 1",
        ] {
            assert!(text_now.lines().any(|l| l == line), "{line}\n{text_now}");
        }
        drop(held);
        assert_eq!(metrics.connections.get(), 0);
    }

    /// Guards the scraper: one bad line and Prometheus drops all of them.
    #[test]
    fn names_are_unique_and_say_their_kind() {
        let families = Metrics::default().families();
        let mut names: Vec<_> = families.iter().map(|f| f.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), families.len());
        for family in &families {
            let total = family.name.ends_with("_total");
            assert_eq!(total, family.kind == "counter", "{}", family.name);
        }
    }
}
