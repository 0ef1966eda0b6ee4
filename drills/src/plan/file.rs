//! The plan file as it is written, and its translation into a [`Plan`].

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::duration::PlanDuration;
use super::file_check::CheckTable;
use super::{Address, DEFAULT_TIME_LIMIT, Objectives, Plan, ServerPlan};

/// What is wrong, and what to do about it.
pub(super) type Refusal = (String, String);

/// What the virtual machine monitor can give one machine.
const MAX_CPUS: u32 = 254;
const MIN_MEMORY_MIB: u32 = 64;
const MAX_MEMORY_MIB: u32 = 16 << 20;
const A_CHECK: &str = "[[check]] with kind = \"http\", port = 80, path = \"/\"";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanTable {
    name: Option<String>,
    description: Option<String>,
    server: Option<Servers>,
    point: Option<String>,
    memory_mib: Option<u32>,
    cpus: Option<u32>,
    site_kernel: Option<PathBuf>,
    time_limit: Option<PlanDuration>,
    #[serde(default)]
    network: NetworkTable,
    #[serde(default)]
    objectives: ObjectivesTable,
    #[serde(default)]
    check: Vec<CheckTable>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct NetworkTable {
    gateway: Option<String>,
    address: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ObjectivesTable {
    rpo: Option<PlanDuration>,
    rto: Option<PlanDuration>,
    #[serde(default)]
    required: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerTable {
    name: Option<String>,
    point: Option<String>,
    memory_mib: Option<u32>,
    cpus: Option<u32>,
    site_kernel: Option<PathBuf>,
    gateway: Option<String>,
    address: Option<String>,
    #[serde(default)]
    check: Vec<CheckTable>,
}

/// `server = "NAME"` or several `[[server]]`.
enum Servers {
    One(String),
    Tables(Vec<ServerTable>),
}

// Written out because an untagged enum would say only that nothing matched.
impl<'de> Deserialize<'de> for Servers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Servers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a server's name (server = \"NAME\") or [[server]] tables")
            }

            fn visit_str<E>(self, name: &str) -> Result<Servers, E> {
                Ok(Servers::One(name.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Servers, A::Error> {
                let mut tables = Vec::new();
                while let Some(table) = seq.next_element()? {
                    tables.push(table);
                }
                Ok(Servers::Tables(tables))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

pub(super) fn parse(text: &str, base: &Path) -> Result<Plan, Refusal> {
    let table: PlanTable = toml::from_str(text).map_err(|e| {
        (
            format!("not a drill plan: {}", e.to_string().trim_end()),
            "correct the key shown; `relevo-drills run --help` shows a whole plan".to_owned(),
        )
    })?;
    let name = required(table.name, "name", "name = \"weekly\"")?;
    check_name(&name)?;
    let mut servers = Vec::new();
    let given = required(table.server, "server", "server = \"NAME\"")?;
    let tables = match given {
        Servers::One(name) => vec![ServerTable {
            name: Some(name),
            point: None,
            memory_mib: None,
            cpus: None,
            site_kernel: None,
            gateway: None,
            address: None,
            check: Vec::new(),
        }],
        Servers::Tables(tables) => tables,
    };
    let alone = tables.len() == 1;
    if !alone && !table.check.is_empty() {
        return Err((
            "`check` stands outside of the servers, though there are several".into(),
            "write each check below its server, as [[server.check]]".into(),
        ));
    }
    if !alone && table.network.address.is_some() {
        return Err((
            "`network.address` is the address of one server, and there are several".into(),
            "write `address` below the [[server]] that has it".into(),
        ));
    }
    let mut shared_checks = table.check;
    for (index, server) in tables.into_iter().enumerate() {
        let place = if alone {
            String::new()
        } else {
            format!("server[{index}].")
        };
        let mut checks = server.check;
        checks.append(&mut shared_checks);
        let server_name = required(server.name, &format!("{place}name"), "name = \"NAME\"")?;
        if server_name.trim().is_empty() {
            return Err((
                format!("`{place}server` is empty"),
                "write the server's name or id; `relevo-recover list` shows them".into(),
            ));
        }
        if checks.is_empty() {
            return Err((
                format!("`{place}check` is missing: a drill of {server_name} would prove nothing"),
                format!("say what shows that the server works, such as {A_CHECK}"),
            ));
        }
        let checks = checks
            .into_iter()
            .enumerate()
            .map(|(i, check)| check.translate(&format!("{place}check[{i}]")))
            .collect::<Result<Vec<_>, _>>()?;
        if checks.iter().all(|check| !check.required) {
            return Err((
                format!("no `{place}check` is required: the drill of {server_name} could not fail"),
                "remove `required = false` from at least one check".into(),
            ));
        }
        servers.push(ServerPlan {
            server: server_name,
            point: server
                .point
                .or_else(|| table.point.clone())
                .unwrap_or_else(|| "latest".into()),
            memory_mib: in_range(
                server.memory_mib.or(table.memory_mib),
                MIN_MEMORY_MIB,
                MAX_MEMORY_MIB,
                &format!("{place}memory_mib"),
            )?,
            cpus: in_range(
                server.cpus.or(table.cpus),
                1,
                MAX_CPUS,
                &format!("{place}cpus"),
            )?,
            site_kernel: kernel(
                server.site_kernel.as_ref().or(table.site_kernel.as_ref()),
                base,
                &format!("{place}site_kernel"),
            )?,
            gateway: address(
                server.gateway.as_deref(),
                table.network.gateway.as_deref(),
                &format!("{place}gateway"),
            )?,
            address: address(
                server.address.as_deref(),
                table.network.address.as_deref(),
                &format!("{place}address"),
            )?,
            checks,
        });
    }
    if servers.is_empty() {
        return Err(("`server` is empty".into(), "write server = \"NAME\"".into()));
    }
    refuse_twins(&servers)?;
    Ok(Plan {
        name,
        description: table.description,
        servers,
        time_limit: table.time_limit.map_or(DEFAULT_TIME_LIMIT, |d| d.0),
        objectives: Objectives {
            rpo: table.objectives.rpo.map(|d| d.0),
            rto: table.objectives.rto.map(|d| d.0),
            required: table.objectives.required,
        },
    })
}

pub(super) fn required<T>(value: Option<T>, key: &str, example: &str) -> Result<T, Refusal> {
    value.ok_or_else(|| (format!("`{key}` is missing"), format!("add {example}")))
}

/// The name becomes part of file names.
fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(fits) {
        return Err((
            format!("`name` is \"{name}\", which cannot name a directory of reports"),
            "use 1 to 64 letters, digits, `-`, `_` and `.`, not beginning with a dot".into(),
        ));
    }
    Ok(())
}

fn refuse_twins(servers: &[ServerPlan]) -> Result<(), Refusal> {
    for (index, server) in servers.iter().enumerate() {
        if servers
            .iter()
            .take(index)
            .any(|s| s.server == server.server)
        {
            return Err((
                format!("`server[{index}].name`: {} is there twice", server.server),
                "a server runs once in a drill; remove one of the two".into(),
            ));
        }
    }
    Ok(())
}

fn in_range(value: Option<u32>, low: u32, high: u32, key: &str) -> Result<Option<u32>, Refusal> {
    match value {
        Some(v) if v < low || v > high => Err((
            format!("`{key}` is {v}"),
            format!("write a number from {low} to {high}"),
        )),
        other => Ok(other),
    }
}

fn kernel(path: Option<&PathBuf>, base: &Path, key: &str) -> Result<Option<PathBuf>, Refusal> {
    let Some(path) = path else { return Ok(None) };
    let path = base.join(path);
    if path.is_file() {
        return Ok(Some(path));
    }
    Err((
        format!("`{key}`: there is no file {}", path.display()),
        "give the path of a kernel (ELF vmlinux or bzImage), or leave the key out to boot the \
         server's own"
            .into(),
    ))
}

/// The server's own value, or the one in `[network]`.
fn address(own: Option<&str>, shared: Option<&str>, key: &str) -> Result<Option<Address>, Refusal> {
    let (text, key) = match (own, shared) {
        (Some(text), _) => (text, key.to_owned()),
        (None, Some(text)) => (
            text,
            format!("network.{}", key.rsplit('.').next().unwrap_or(key)),
        ),
        (None, None) => return Ok(None),
    };
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let address: Ipv4Addr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        (1..=30)
            .contains(&prefix)
            .then_some(Address { address, prefix })
    });
    parsed.map(Some).ok_or_else(|| {
        (
            format!("`{key}` is \"{text}\""),
            "write an IPv4 address with its prefix length, such as \"10.1.2.1/24\", or leave the \
             key out to derive it from the server"
                .into(),
        )
    })
}
