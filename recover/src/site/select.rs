//! Finding the server and the recovery point that a person means.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use relevo_wire::client::PointPages;
use relevo_wire::message::{PointEntry, Request, Response, ServerEntry};
use relevo_wire::{PointId, ServerId, Timestamp};

use crate::failure::Failure;
use crate::image::VaultLink;

/// Which recovery point is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PointSelector {
    /// The newest one.
    #[default]
    Latest,
    /// The one whose id begins so.
    Id(String),
    /// The newest one taken no later than this.
    NotLater(Timestamp),
}

impl FromStr for PointSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let is_hex = text.chars().all(|c| c.is_ascii_hexdigit());
        if is_hex && (4..=32).contains(&text.len()) {
            return Ok(Self::Id(text.to_ascii_lowercase()));
        }
        text.parse().map(Self::NotLater).map_err(|_| {
            format!(
                "'{text}' is neither 'latest', nor an id (or at least its first 4 digits), \
                 nor a time such as 2026-11-22T08:00:00Z"
            )
        })
    }
}

impl fmt::Display for PointSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Id(id) => f.write_str(id),
            Self::NotLater(time) => time.fmt(f),
        }
    }
}

impl VaultLink {
    /// The tenant's servers, by name.
    pub fn servers(self: &Arc<Self>) -> Result<Vec<ServerEntry>, Failure> {
        match self.request(&Request::ListServers)? {
            Response::Servers(mut servers) => {
                servers.sort_by(|a, b| (&a.name, a.enrolled).cmp(&(&b.name, b.enrolled)));
                Ok(servers)
            }
            other => Err(strange(&other)),
        }
    }

    /// The recovery points of a server, newest first.
    pub fn points(self: &Arc<Self>, server: ServerId) -> Result<Vec<PointEntry>, Failure> {
        let mut pages = PointPages::default();
        loop {
            match self.request(&pages.request(server))? {
                Response::Points(page) => {
                    if !pages.take(page) {
                        break;
                    }
                }
                other => return Err(strange(&other)),
            }
        }
        let mut points = pages.into_points();
        points.sort_by_key(|p| std::cmp::Reverse(p.manifest.taken));
        Ok(points)
    }

    /// The manifest of a point, as the vault holds it.
    pub fn manifest(
        self: &Arc<Self>,
        point: PointId,
    ) -> Result<relevo_wire::manifest::SealedManifest, Failure> {
        match self.request(&Request::GetManifest { point })? {
            Response::Manifest(manifest) => Ok(manifest),
            other => Err(strange(&other)),
        }
    }
}

fn strange(response: &Response) -> Failure {
    let text: String = format!("{response:?}").chars().take(60).collect();
    Failure::new(
        format!("the vault gave an answer that fits no question ({text})"),
        "update this program and the vault to the same release",
    )
}

/// The server of this name or id.
pub(crate) fn select_server(servers: &[ServerEntry], wanted: &str) -> Result<ServerEntry, Failure> {
    if let Ok(id) = wanted.parse::<ServerId>() {
        return servers.iter().find(|s| s.id == id).cloned().ok_or_else(|| {
            Failure::new(
                format!("no server has the id {wanted}"),
                "see 'relevo-recover list'",
            )
        });
    }
    let named: Vec<_> = servers.iter().filter(|s| s.name == wanted).collect();
    match named.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let mut names: Vec<_> = servers.iter().map(|s| s.name.as_str()).collect();
            names.truncate(10);
            let known = if names.is_empty() {
                "none".into()
            } else {
                names.join(", ")
            };
            Err(Failure::new(
                format!("no server is named '{wanted}' (there are: {known})"),
                "see 'relevo-recover list'",
            ))
        }
        several => {
            let ids: Vec<_> = several.iter().map(|s| s.id.to_string()).collect();
            Err(Failure::new(
                format!("{} servers are named '{wanted}'", several.len()),
                format!("name one by its id: {}", ids.join(", ")),
            ))
        }
    }
}

/// The point meant; `points` are newest first.
pub(crate) fn select_point(
    points: &[PointEntry],
    server: &str,
    wanted: &PointSelector,
) -> Result<PointEntry, Failure> {
    let see = || format!("see 'relevo-recover inspect {server}' and 'relevo-recover list'");
    if points.is_empty() {
        return Err(Failure::new(
            format!("{server} has no recovery point"),
            "run 'relevo-agent backup' on it, or choose another server",
        ));
    }
    match wanted {
        PointSelector::Latest => Ok(points[0].clone()),
        PointSelector::NotLater(time) => points
            .iter()
            .find(|p| p.manifest.taken <= *time)
            .cloned()
            .ok_or_else(|| {
                let oldest = points[points.len() - 1].manifest.taken;
                Failure::new(
                    format!("{server} has no recovery point as old as {time}"),
                    format!("its oldest is of {oldest}; {}", see()),
                )
            }),
        PointSelector::Id(prefix) => {
            let matching: Vec<_> = points
                .iter()
                .filter(|p| p.manifest.point.to_string().starts_with(prefix))
                .collect();
            match matching.as_slice() {
                [one] => Ok((*one).clone()),
                [] => Err(Failure::new(
                    format!("{server} has no recovery point {prefix}"),
                    see(),
                )),
                _ => Err(Failure::new(
                    format!(
                        "{} recovery points of {server} begin with {prefix}",
                        matching.len()
                    ),
                    "give more digits of the id",
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use relevo_wire::manifest::{PublicManifest, RunTotals};

    fn point(first: u8, taken: i64) -> PointEntry {
        let mut id = [0; 16];
        id[0] = first;
        PointEntry {
            manifest: PublicManifest {
                version: 1,
                server: ServerId::from_bytes([1; 16]),
                point: PointId::from_bytes(id),
                taken: Timestamp::from_millis(taken),
                roots: vec![],
                inventory: vec![],
                totals: RunTotals::default(),
            },
            committed: Timestamp::from_millis(taken),
            stored: 0,
            verified: None,
        }
    }

    #[test]
    fn a_time_selects_the_newest_point_not_later() {
        let points = [point(3, 3000), point(2, 2000), point(1, 1000)];
        let at = |ms| {
            select_point(
                &points,
                "s",
                &PointSelector::NotLater(Timestamp::from_millis(ms)),
            )
            .map(|p| p.manifest.taken.as_millis())
        };
        assert_eq!(at(2999).unwrap(), 2000);
        assert_eq!(at(3000).unwrap(), 3000);
        assert_eq!(at(i64::MAX).unwrap(), 3000);
        assert!(at(999).is_err());
    }

    #[test]
    fn an_ambiguous_prefix_is_refused() {
        let points = [point(0xab, 2), point(0xab, 1), point(0xac, 0)];
        let by = |text: &str| select_point(&points, "s", &text.parse().unwrap());
        assert!(by("ab00").unwrap_err().cause.contains("2 recovery points"));
        assert_eq!(by("AC00").unwrap().manifest.taken.as_millis(), 0);
        assert!(by("dead").is_err());
        assert!(select_point(&[], "s", &PointSelector::Latest).is_err());
    }

    #[test]
    fn selectors_are_read_and_others_explained() {
        assert_eq!("latest".parse(), Ok(PointSelector::Latest));
        assert!(matches!(
            "2026-11-22T08:00:00Z".parse(),
            Ok(PointSelector::NotLater(_))
        ));
        assert!(
            "yesterday"
                .parse::<PointSelector>()
                .unwrap_err()
                .contains("2026-")
        );
    }
}
