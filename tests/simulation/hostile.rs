//! Somebody with a valid certificate who lies, replays and looks for what is not his.

use std::sync::Arc;

use bytes::Bytes;
use relevo_vault::ingest::Peer;
use relevo_wire::chunk::{Chunk, Compressor};
use relevo_wire::client::ClientError;
use relevo_wire::frame;
use relevo_wire::manifest::{Consistency, ManifestBody};
use relevo_wire::manifest::{MANIFEST_VERSION, PublicManifest, RunTotals, SealedManifest};
use relevo_wire::message::{RefusalCode, Request, Response};
use relevo_wire::{ChunkId, PointId, SessionId, SiteId, Timestamp};

use crate::network::{put_stream, response};
use crate::world::World;

type Answer = Option<Result<Response, ClientError>>;

/// Tries one thing. Whoever it is, he has the certificate of one of the servers.
pub fn attack(world: &Arc<World>) {
    if !world.machine.is_up() {
        return;
    }
    let at = world.roll(world.servers.len() as u64) as usize;
    let what = world.roll(8);
    world.note(format_args!("server {at} is hostile: attack {what}"));
    match what {
        0 => noise(world, at),
        1 => lengths(world, at),
        2 => foreign_session(world, at),
        3 => foreign_server(world, at),
        4 => taken_point(world, at),
        5 => points_at_nothing(world, at),
        6 => brings_back(world),
        _ => other_tenant(world, at),
    }
}

fn ask(world: &Arc<World>, peer: Peer, request: &Request) -> Answer {
    let bytes = frame::encode(request).unwrap();
    world.deliver(peer, &bytes, true).map(|a| response(&a))
}

fn refused(answer: Answer, expected: &[RefusalCode], what: &str) {
    match answer {
        // The vault fell, as its own fate was.
        None => {}
        Some(Err(ClientError::Refused(refusal)))
            if expected.contains(&refusal.code)
                || matches!(refusal.code, RefusalCode::Storage | RefusalCode::Full) => {}
        other => panic!("{what}: {other:?}"),
    }
}

fn session(world: &Arc<World>, peer: Peer) -> Option<SessionId> {
    match ask(world, peer, &Request::OpenSession)? {
        Ok(Response::SessionOpened { session }) => Some(session),
        other => panic!("a session is answered with {other:?}"),
    }
}

fn noise(world: &Arc<World>, at: usize) {
    let mut bytes = vec![0; world.roll(3000) as usize];
    let seed = world.roll(u64::MAX).to_le_bytes();
    blake3::Hasher::new()
        .update(&seed)
        .finalize_xof()
        .fill(&mut bytes);
    if let Some(prefix) = bytes.get_mut(2..4)
        && world.once_in(2)
    {
        prefix.fill(0);
    }
    let answer = world.deliver(world.peer(at), &bytes, true);
    let answer = answer.map(|a| response(&a));
    refused(
        answer,
        &[RefusalCode::Malformed],
        "noise was taken for a request",
    );
}

/// A put whose head lies about what follows.
fn lengths(world: &Arc<World>, at: usize) {
    let Some(session) = session(world, world.peer(at)) else {
        return;
    };
    let chunks = [0, 3, 1025, u32::MAX][world.roll(4) as usize];
    let mut bytes = frame::encode(&Request::Put { session, chunks })
        .unwrap()
        .to_vec();
    let sizes = [0, 7, 300 << 10, 3 << 20];
    for _ in 0..1 + world.roll(2) {
        let body = vec![1; sizes[world.roll(4) as usize]];
        bytes.extend_from_slice(&frame::prefix(&body).unwrap());
        bytes.extend_from_slice(&body);
    }
    let answer = world
        .deliver(world.peer(at), &bytes, true)
        .map(|a| response(&a));
    match answer {
        Some(Ok(Response::Stored { added: 0 })) if chunks == 0 => {}
        other => refused(
            other,
            &[RefusalCode::Malformed, RefusalCode::Corrupt],
            "a put that lies",
        ),
    }
}

/// The session of another server, or of nobody.
fn foreign_session(world: &Arc<World>, at: usize) {
    let other = world.roll(world.servers.len() as u64) as usize;
    let session = match other == at {
        true => Some(SessionId::random()),
        false => session(world, world.peer(other)),
    };
    let Some(session) = session else { return };
    let ids = vec![ChunkId::of(b"x")];
    let answer = ask(world, world.peer(at), &Request::Have { session, ids });
    refused(
        answer,
        &[RefusalCode::NotFound],
        "another's session was served",
    );
}

/// A manifest with keys of its own, since the vault cannot tell.
fn manifest(world: &Arc<World>, at: usize, point: PointId, roots: Vec<ChunkId>) -> SealedManifest {
    let server = &world.servers[at];
    let public = PublicManifest {
        version: MANIFEST_VERSION,
        server: server.id,
        point,
        taken: Timestamp::now(),
        roots: Vec::new(),
        inventory: Vec::new(),
        totals: RunTotals::default(),
    };
    let disk = |id: &ChunkId| relevo_wire::manifest::DiskImage {
        name: "sda".into(),
        size: 1 << 20,
        root: Some(relevo_wire::manifest::SealedRef::node(
            relevo_wire::index::ChunkRef {
                id: *id,
                key: relevo_wire::key::ChunkKey::from_bytes([7; 32]),
            },
        )),
        sector: 512,
        serial: None,
        faults: None,
    };
    let body = ManifestBody {
        disks: roots.iter().map(disk).collect(),
        inventory: vec![],
        consistency: Consistency::Offline,
        chunker: 1,
        agent: "hostile".into(),
        started: Timestamp::now(),
        finished: Timestamp::now(),
        held: None,
    };
    let keys = &world.tenants[server.tenant].keys.sealing;
    SealedManifest::seal(keys, public, &body).unwrap()
}

/// A point of another server.
fn foreign_server(world: &Arc<World>, at: usize) {
    let other = world.roll(world.servers.len() as u64) as usize;
    if world.servers[other].id == world.servers[at].id {
        return;
    }
    let peer = world.peer(at);
    let Some(session) = session(world, peer) else {
        return;
    };
    let manifest = manifest(world, other, PointId::random(), vec![]);
    let answer = ask(world, peer, &Request::Commit { session, manifest });
    refused(
        answer,
        &[RefusalCode::Forbidden],
        "a point of another server was taken",
    );
}

/// Other content under the id of a point that stands, or that was deleted.
fn taken_point(world: &Arc<World>, at: usize) {
    let points: Vec<PointId> = {
        let promises = world.promises();
        let stood = promises.points.iter().filter(|(id, p)| {
            let same = world.servers[p.server].tenant == world.servers[at].tenant;
            same && p.state != crate::promises::State::Asked && !promises.hit_points.contains(id)
        });
        stood.map(|(id, _)| *id).collect()
    };
    if points.is_empty() || world.promises().hit_more {
        return;
    }
    let point = points[world.roll(points.len() as u64) as usize];
    let peer = world.peer(at);
    let Some(session) = session(world, peer) else {
        return;
    };
    let manifest = manifest(world, at, point, vec![]);
    let answer = ask(world, peer, &Request::Commit { session, manifest });
    refused(answer, &[RefusalCode::Corrupt], "a point was overwritten");
}

/// The very manifest of a point that was deleted, once more.
fn brings_back(world: &Arc<World>) {
    let deleted = {
        let promises = world.promises();
        let deleted = |p: &&crate::promises::Promise| p.state == crate::promises::State::Deleted;
        let of = promises.points.values().find(deleted);
        of.filter(|_| !promises.hit_more)
            .map(|p| (p.server, p.manifest.clone()))
    };
    let Some((at, manifest)) = deleted else {
        return;
    };
    let peer = world.peer(at);
    let Some(session) = session(world, peer) else {
        return;
    };
    match ask(world, peer, &Request::Commit { session, manifest }) {
        // Its chunks may be collected by now.
        Some(Ok(Response::Incomplete { .. })) => {}
        other => refused(other, &[RefusalCode::Corrupt], "a deleted point came back"),
    }
}

/// A point over chunks that are not there, or stand in the wrong place.
fn points_at_nothing(world: &Arc<World>, at: usize) {
    let peer = world.peer(at);
    let Some(session) = session(world, peer) else {
        return;
    };
    let secret = &world.tenants[world.servers[at].tenant].keys.sealing.secret;
    let data = Chunk::new(secret, b"no node at all").seal(&mut Compressor::new());
    let roots = match world.once_in(2) {
        true => vec![ChunkId::of(b"nowhere")],
        false => {
            let stream = put_stream(session, std::slice::from_ref(&data)).unwrap();
            world.deliver(peer, &stream, true);
            vec![data.id()]
        }
    };
    let manifest = manifest(world, at, PointId::random(), roots);
    match ask(world, peer, &Request::Commit { session, manifest }) {
        Some(Ok(Response::Incomplete { .. })) => {}
        other => refused(
            other,
            &[RefusalCode::Corrupt, RefusalCode::NotFound],
            "a point over nothing was taken",
        ),
    }
}

/// What is another tenant's must not be found, named or read.
fn other_tenant(world: &Arc<World>, at: usize) {
    let own = world.servers[at].tenant;
    let Some(other) = (0..world.tenants.len()).find(|t| *t != own) else {
        return;
    };
    let found = {
        let promises = world.promises();
        let of = |p: &&crate::promises::Promise| world.servers[p.server].tenant == other;
        let point = promises
            .points
            .iter()
            .find(|(_, p)| of(p))
            .map(|(id, _)| *id);
        point.map(|point| (point, world.servers[promises.points[&point].server].id))
    };
    let Some((point, server)) = found else { return };
    let theirs = Peer::Recovery(
        world.tenants[other].keys.sealing.tenant,
        world.tenants[other].site,
    );
    let spy = Peer::Recovery(world.tenants[own].keys.sealing.tenant, SiteId::random());
    let not_found = &[RefusalCode::NotFound];
    refused(
        ask(world, spy, &Request::GetManifest { point }),
        not_found,
        "another's manifest",
    );
    refused(
        ask(
            world,
            spy,
            &Request::ListPoints {
                server,
                after: None,
            },
        ),
        not_found,
        "another's points",
    );
    let Some(Ok(Response::Manifest(manifest))) =
        ask(world, theirs, &Request::GetManifest { point })
    else {
        return;
    };
    let public = manifest.public().unwrap();
    let ids: Vec<ChunkId> = public
        .roots
        .iter()
        .chain(&public.inventory)
        .copied()
        .collect();
    let bytes = frame::encode(&Request::Get { ids: ids.clone() }).unwrap();
    if let Some(answer) = world.deliver(spy, &bytes, true) {
        let mut frames = relevo_wire::frame::FrameDecoder::default();
        frames.push(&answer);
        frames.next_frame().unwrap();
        while let Some(chunk) = frames.next_frame().unwrap() {
            assert_eq!(chunk, Bytes::new(), "another tenant's chunk was read");
        }
    }
    let peer = world.peer(at);
    let Some(session) = session(world, peer) else {
        return;
    };
    match ask(world, peer, &Request::Have { session, ids }) {
        None | Some(Err(_)) => {}
        Some(Ok(Response::Known(bits))) => {
            assert!(
                bits.iter().all(|b| *b == 0),
                "another tenant's chunk was told of"
            );
        }
        Some(Ok(other)) => panic!("a question is answered with {other:?}"),
    }
}
