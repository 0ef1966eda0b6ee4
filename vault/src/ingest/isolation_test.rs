//! No request of one tenant names, infers, reads or changes what is another's.
//!
//! Every request that can carry an id is asked twice by every role of tenant A: with ids of
//! tenant B, and with ids that nobody has. Answers must be the same but for the ids, and so must
//! the number of catalogue look-ups and reads of packs, which is what timing would tell.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use relevo_wire::chunk::{Chunk, Compressor};
use relevo_wire::identity::{Applicant, Authority, Identity};
use relevo_wire::index::{ChunkRef, Extent, Node};
use relevo_wire::key::OpeningKeys;
use relevo_wire::manifest::{
    Consistency, DiskImage, MANIFEST_VERSION, ManifestBody, PublicManifest, RunTotals,
    SealedManifest, SealedRef,
};
use relevo_wire::message::{PointCursor, RefusalCode, Request, Response, TokenRole};
use relevo_wire::{
    ChunkId, PersonId, PointId, ServerId, SessionId, SiteId, TenantId, Timestamp, VaultId,
};

use super::permission::Kind;
use super::{Outcome, Peer, Vault, check_chunks};
use crate::catalogue::Role;
use crate::record::PersonRole;
use crate::store::Store;
use crate::token::{self, Wanted};
use crate::volume::{DiskVolume, FileId, Volume};

/// A disk that counts reads.
struct Counting {
    disk: DiskVolume,
    reads: AtomicU64,
}

impl Volume for Counting {
    fn list_files(&self) -> std::io::Result<Vec<FileId>> {
        self.disk.list_files()
    }
    fn create(&self, file: impl Into<FileId>) -> std::io::Result<()> {
        self.disk.create(file)
    }
    fn write_at(&self, file: impl Into<FileId>, at: u64, data: &[u8]) -> std::io::Result<()> {
        self.disk.write_at(file, at, data)
    }
    fn read_at(&self, file: impl Into<FileId>, at: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.disk.read_at(file, at, buf)
    }
    fn length(&self, file: impl Into<FileId>) -> std::io::Result<u64> {
        self.disk.length(file)
    }
    fn truncate(&self, file: impl Into<FileId>, length: u64) -> std::io::Result<()> {
        self.disk.truncate(file, length)
    }
    fn sync(&self, file: impl Into<FileId>) -> std::io::Result<()> {
        self.disk.sync(file)
    }
    fn remove(&self, file: impl Into<FileId>) -> std::io::Result<()> {
        self.disk.remove(file)
    }
    fn rename(&self, from: impl Into<FileId>, to: impl Into<FileId>) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn sync_directory(&self, tenant: TenantId) -> std::io::Result<()> {
        self.disk.sync_directory(tenant)
    }
}

struct Lab {
    vault: Vault<Counting>,
    volume: Arc<Counting>,
    _dir: tempfile::TempDir,
}

/// One tenant with everything that can have an id.
struct Tenant {
    keys: OpeningKeys,
    ids: Ids,
    peers: Vec<Peer>,
}

/// What a request can name.
#[derive(Clone)]
struct Ids {
    server: ServerId,
    point: PointId,
    chunks: Vec<ChunkId>,
    session: SessionId,
    /// Names, ids and identities of a server, a site and a person.
    names: Vec<String>,
}

impl Ids {
    /// Which nobody has.
    fn unknown(tenant: TenantId, like: &Ids) -> Self {
        let server = ServerId::random();
        Self {
            server,
            point: PointId::random(),
            chunks: like
                .chunks
                .iter()
                .map(|_| ChunkId::from_bytes(relevo_wire::id::random_bytes()))
                .collect(),
            session: SessionId::random(),
            names: names(
                "ghost",
                tenant,
                server,
                SiteId::random(),
                PersonId::random(),
            ),
        }
    }

    /// A text with these ids made anonymous.
    fn hide(&self, mut text: String) -> String {
        let mut all = vec![
            self.server.to_string(),
            self.point.to_string(),
            self.session.to_string(),
        ];
        all.extend(self.chunks.iter().map(ToString::to_string));
        all.extend(self.names.iter().cloned());
        // The longest first: identities contain ids.
        all.sort_by_key(|id| std::cmp::Reverse(id.len()));
        for id in all {
            text = text.replace(&id, "ID");
        }
        text
    }
}

fn names(
    prefix: &str,
    tenant: TenantId,
    server: ServerId,
    site: SiteId,
    person: PersonId,
) -> Vec<String> {
    let identities = [
        Identity::Agent { tenant, server },
        Identity::Recovery { tenant, site },
        Identity::Operator { tenant, person },
    ];
    let mut all: Vec<String> = identities.iter().map(ToString::to_string).collect();
    all.extend([server.to_string(), site.to_string(), person.to_string()]);
    all.extend(["server", "site", "person"].map(|what| format!("{prefix}-{what}")));
    all
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volume = Arc::new(Counting {
            disk: DiskVolume::new(dir.path().join("packs")),
            reads: AtomicU64::new(0),
        });
        std::fs::create_dir(dir.path().join("packs")).unwrap();
        let id = VaultId::random();
        let catalogue = dir.path().join("catalogue.sqlite");
        let (store, _) = Store::open(volume.clone(), id, &catalogue).unwrap();
        let vault = Vault::new(id, store, Authority::generate(id).unwrap());
        Self {
            vault,
            volume,
            _dir: dir,
        }
    }

    fn enroll(&self, tenant: TenantId, role: Role, name: &str) -> Identity {
        let wanted = Wanted {
            role,
            valid: std::time::Duration::from_secs(60),
            tenant: Some(tenant),
            again: None,
        };
        let made = self
            .vault
            .store()
            .read(|c| Ok(token::make_in(c, [0; 32], &wanted)))
            .unwrap()
            .unwrap();
        let token: relevo_wire::enrollment::Token = made.token.parse().unwrap();
        let request = Request::Enroll {
            secret: token.secret,
            certificate_request: Applicant::generate().unwrap().request,
            name: name.into(),
            tenant,
        };
        match self.vault.answer(Peer::Applicant, request).unwrap() {
            Outcome::Answer(Response::Enrolled { identity, .. }) => identity.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn answer(&self, peer: Peer, request: Request) -> Response {
        match self.vault.answer(peer, request).unwrap() {
            Outcome::Answer(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// A tenant with server, site, people, a recovery point, an open session.
    fn tenant(&self, prefix: &str, content: &[u8]) -> Tenant {
        let keys = OpeningKeys::generate().unwrap();
        let tenant = keys.sealing.tenant;
        let agent = Peer::of(self.enroll(tenant, Role::Agent, &format!("{prefix}-server")));
        let site = Peer::of(self.enroll(tenant, Role::Recovery, &format!("{prefix}-site")));
        let person = Peer::of(self.enroll(tenant, Role::Operator, &format!("{prefix}-person")));
        let (server, site_id, person_id) = match (agent, site, person) {
            (Peer::Agent(_, server), Peer::Recovery(_, site), Peer::Person(_, _, person)) => {
                (server, site, person)
            }
            other => panic!("{other:?}"),
        };
        let others = [PersonRole::Auditor, PersonRole::Administrator]
            .map(|role| Peer::Person(tenant, role, PersonId::random()));
        let secret = &keys.sealing.secret;
        let data = Chunk::new(secret, content).seal(&mut Compressor::new());
        let reference = ChunkRef {
            id: data.id(),
            key: data.key(),
        };
        let leaf = Node::Leaf(vec![Extent::Data {
            length: content.len() as u32,
            chunk: reference,
        }])
        .seal(secret);
        let root = ChunkRef {
            id: leaf.id(),
            key: leaf.key(),
        };
        let bytes = vec![data.bytes().clone(), leaf.bytes().clone()];
        let records = check_chunks(bytes).unwrap();
        self.vault.store().append_blocking(tenant, records).unwrap();
        let session = || match self.answer(agent, Request::OpenSession) {
            Response::SessionOpened { session } => session,
            other => panic!("{other:?}"),
        };
        let mut ids = Ids {
            server,
            point: PointId::random(),
            chunks: vec![data.id(), leaf.id()],
            session: session(),
            names: names(prefix, tenant, server, site_id, person_id),
        };
        let manifest = manifest(&keys, &ids, Some(SealedRef::node(root)));
        let commit = Request::Commit {
            session: ids.session,
            manifest,
        };
        let committed = self.answer(agent, commit);
        assert!(
            matches!(committed, Response::Committed { .. }),
            "{committed:?}"
        );
        ids.session = session();
        let mut peers = vec![agent, site, person];
        peers.extend(others);
        Tenant { keys, ids, peers }
    }

    /// The answer with `ids` hidden, the look-ups and reads that it took.
    fn judge(&self, peer: Peer, request: Request, ids: &Ids) -> (String, u64, u64) {
        let before = self.counts();
        let done = self.vault.answer(peer, request);
        let text = match &done {
            // What is to be sent names places in packs: what counts is what is found.
            Ok(Outcome::Send(_, steps)) => format!("{steps:?}"),
            Ok(Outcome::Receive(_)) => "receive".into(),
            other => format!("{other:?}"),
        };
        let after = self.counts();
        (ids.hide(text), after.0 - before.0, after.1 - before.1)
    }

    fn counts(&self) -> (u64, u64) {
        let reads = self.volume.reads.load(Ordering::Relaxed);
        (self.vault.store().catalogue_reads(), reads)
    }

    /// What a tenant's own people see.
    fn state(&self, tenant: &Tenant) -> String {
        let site = tenant.peers[1];
        let administrator = tenant.peers[4];
        let server = tenant.ids.server;
        let after = None;
        let servers = self.answer(site, Request::ListServers);
        let points = self.answer(site, Request::ListPoints { server, after });
        let point = tenant.ids.point;
        let manifest = self.answer(site, Request::GetManifest { point });
        let enrolled = self
            .vault
            .store()
            .read(|c| c.enrolled(tenant.keys.sealing.tenant));
        let report = match self.answer(administrator, Request::Report) {
            Response::Report(mut report) => {
                report.now = Timestamp::from_millis(0);
                report
            }
            other => panic!("{other:?}"),
        };
        let chunks = tenant.ids.chunks.clone();
        let found = self.vault.answer(site, Request::Get { ids: chunks });
        format!("{servers:?} {points:?} {manifest:?} {enrolled:?} {report:?} {found:?}")
    }
}

/// A manifest of one disk; without a root, of chunks that the ids name.
fn manifest(keys: &OpeningKeys, ids: &Ids, root: Option<SealedRef>) -> SealedManifest {
    let public = PublicManifest {
        version: MANIFEST_VERSION,
        server: ids.server,
        point: ids.point,
        taken: Timestamp::from_millis(1_000_000),
        roots: vec![],
        inventory: vec![],
        totals: RunTotals::default(),
    };
    let root = root.unwrap_or_else(|| {
        SealedRef::node(ChunkRef {
            id: ids.chunks[1],
            key: Chunk::new(&keys.sealing.secret, b"any")
                .seal(&mut Compressor::new())
                .key(),
        })
    });
    let body = ManifestBody {
        disks: vec![DiskImage {
            name: "sda".into(),
            size: 4 << 20,
            root: Some(root),
            sector: 512,
            serial: None,
            faults: None,
        }],
        inventory: vec![],
        consistency: Consistency::Offline,
        chunker: 1,
        agent: "test".into(),
        started: Timestamp::from_millis(0),
        finished: Timestamp::from_millis(0),
        held: None,
    };
    SealedManifest::seal(&keys.sealing, public, &body).unwrap()
}

/// Every request that can carry an id, in every way that it can.
fn requests(own: &Tenant, ids: &Ids) -> Vec<Request> {
    let reason = || "why".to_string();
    let (server, point, session) = (ids.server, ids.point, ids.session);
    let taken = Timestamp::from_millis(1_000_000);
    let mine = |ids: &Ids| Ids {
        server: own.ids.server,
        ..ids.clone()
    };
    let mut all = vec![
        Request::Have {
            session,
            ids: ids.chunks.clone(),
        },
        Request::Have {
            session: own.ids.session,
            ids: ids.chunks.clone(),
        },
        Request::Put { session, chunks: 1 },
        // In the name of the other server; into the other session; with the other's chunks.
        Request::Commit {
            session: own.ids.session,
            manifest: manifest(&own.keys, ids, None),
        },
        Request::Commit {
            session,
            manifest: manifest(&own.keys, &mine(ids), None),
        },
        Request::Commit {
            session: own.ids.session,
            manifest: manifest(&own.keys, &mine(ids), None),
        },
        Request::ListPoints {
            server,
            after: None,
        },
        Request::ListPoints {
            server: own.ids.server,
            after: Some(PointCursor {
                taken: taken.plus(std::time::Duration::from_millis(1)),
                point,
            }),
        },
        Request::GetManifest { point },
        Request::Get {
            ids: ids.chunks.clone(),
        },
        Request::DeletePoint {
            point,
            reason: reason(),
            even_latest: true,
        },
        Request::Hold {
            point,
            reason: reason(),
        },
        Request::Release {
            point,
            reason: reason(),
        },
        Request::LockPoint { point, days: 5 },
    ];
    for who in &ids.names {
        all.push(Request::Revoke {
            who: who.clone(),
            reason: reason(),
        });
        for role in [TokenRole::Agent, TokenRole::Recovery, TokenRole::Operator] {
            all.push(Request::MakeToken {
                role,
                valid: 1000,
                again: Some(who.clone()),
            });
        }
    }
    all
}

#[test]
fn what_is_anothers_is_answered_as_what_does_not_exist_and_at_the_same_cost() {
    let lab = Lab::new();
    let (a, b) = (lab.tenant("a", b"the same"), lab.tenant("b", b"the same"));
    assert!(a.ids.chunks.iter().all(|id| !b.ids.chunks.contains(id)));
    let (state_a, state_b) = (lab.state(&a), lab.state(&b));
    let unknown = Ids::unknown(b.keys.sealing.tenant, &b.ids);
    let mut asked = std::collections::HashSet::new();
    for peer in &a.peers {
        for (theirs, nobodys) in requests(&a, &b.ids).into_iter().zip(requests(&a, &unknown)) {
            asked.insert(Kind::of(&theirs));
            let shown = format!("{peer} asks {:?}", Kind::of(&theirs));
            let theirs = lab.judge(*peer, theirs, &b.ids);
            let nobodys = lab.judge(*peer, nobodys, &unknown);
            assert_eq!(theirs, nobodys, "{shown}");
            // Whatever was answered, it was not the thing itself.
            let gave = ["Manifest(", "Token {", "Done {", "Committed", "pack:"];
            assert!(
                !gave.iter().any(|g| theirs.0.contains(g)),
                "{shown}: {theirs:?}"
            );
        }
    }
    // All kinds but those that carry no id.
    assert_eq!(asked.len(), 12, "{asked:?}");
    assert_eq!(lab.state(&a), state_a);
    assert_eq!(lab.state(&b), state_b);
}

/// Guards against an agent that takes another tenant's ids for its own things: both stay whole.
#[test]
fn equal_ids_of_two_tenants_are_two_things() {
    let lab = Lab::new();
    let (a, b) = (lab.tenant("a", b"one"), lab.tenant("b", b"two"));
    let state_b = lab.state(&b);
    // A point of A with the id of B's.
    let mut ids = a.ids.clone();
    ids.point = b.ids.point;
    let site = a.peers[1];
    let point = a.ids.point;
    let sealed = match lab.answer(site, Request::GetManifest { point }) {
        Response::Manifest(manifest) => manifest,
        other => panic!("{other:?}"),
    };
    let root = sealed.open(&a.keys).unwrap().1.disks[0].root;
    let commit = Request::Commit {
        session: a.ids.session,
        manifest: manifest(&a.keys, &ids, root),
    };
    let committed = lab.answer(a.peers[0], commit);
    assert!(
        matches!(committed, Response::Committed { .. }),
        "{committed:?}"
    );
    // A's administrator deletes it: A's goes, B's stays.
    let delete = Request::DeletePoint {
        point: ids.point,
        reason: "why".into(),
        even_latest: true,
    };
    let done = lab.answer(a.peers[4], delete);
    assert!(matches!(done, Response::Done { .. }), "{done:?}");
    assert_eq!(lab.state(&b), state_b);
    // An agent's chunk ids are what they are: B's chunk brought by A is A's.
    let refused = lab.vault.answer(a.peers[1], Request::Report).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Forbidden);
}
