//! Makes the kept inputs anew from the vault in `tests/fixtures`: real records, nodes and chunks.
//! Inputs that once broke something are named `found-…` and stay.

use std::path::Path;
use std::process::Command;

use relevo_fuzz::{TARGETS, commands, corpus, disks};
use relevo_vault::index::{Change, Place, SegmentWriter, Spot};
use relevo_vault::pack::{EntryKind, FIRST_ENTRY, PackHeader};
use relevo_vault::record::{ChunkKind, Record};
use relevo_vault::scan::{Found, scan};
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::frame;
use relevo_wire::index::NodeLinks;
use relevo_wire::message::{PointEntry, Refusal, RefusalCode, Request, Response, ServerEntry};
use relevo_wire::{ChunkId, SessionId, TenantId, Timestamp, VaultId};

/// Longest input kept.
const LONGEST: usize = 12 * 1024;

/// A pack of the fixture.
struct Pack {
    header: Vec<u8>,
    entries: Vec<u8>,
    found: Vec<Found>,
}

fn main() {
    let made = tempfile::tempdir().and_then(|keep| {
        let packs = fixture(keep.path())?;
        for target in TARGETS {
            clear(target.name)?;
        }
        let chunks: Vec<&CheckedChunk> = packs.iter().flat_map(Pack::chunks).collect();
        messages(&packs, &chunks)?;
        nodes_and_chunks(&chunks)?;
        for (number, pack) in packs.iter().enumerate() {
            pack_inputs(number, pack)?;
        }
        segments(keep.path(), &chunks)?;
        rebuilds()?;
        for (name, input) in disks::inputs()? {
            // Cut, a disk would be another.
            std::fs::write(corpus::directory("disk").join(name), input)?;
        }
        Ok(())
    });
    if let Err(error) = made {
        eprintln!(
            "error: {error}\nremedy: run it as root in a whole source tree, after tests/install-prerequisites"
        );
        std::process::exit(1);
    }
}

fn fixture(to: &Path) -> std::io::Result<Vec<Pack>> {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/vault-format-1.tar.zst");
    let mut unpack = Command::new("tar");
    unpack
        .arg("--zstd")
        .arg("-C")
        .arg(to)
        .arg("-xf")
        .arg(archive);
    let done = unpack.status()?.success();
    if !done {
        return Err(std::io::Error::other("the fixture could not be unpacked"));
    }
    let mut packs = Vec::new();
    for tenant in std::fs::read_dir(to.join("vault/packs"))? {
        for pack in std::fs::read_dir(tenant?.path())? {
            let bytes = std::fs::read(pack?.path())?;
            let Some((header, _)) = PackHeader::decode(&bytes) else {
                continue;
            };
            let entries = bytes[FIRST_ENTRY as usize..].to_vec();
            packs.push(Pack {
                header: bytes[..128].to_vec(),
                found: scan(&entries.clone().into(), FIRST_ENTRY, &header.salt).entries,
                entries,
            });
        }
    }
    Ok(packs)
}

impl Pack {
    fn chunks(&self) -> impl Iterator<Item = &CheckedChunk> {
        self.found.iter().filter_map(|found| match &found.record {
            Some(Record::Chunk(chunk)) => Some(chunk),
            _ => None,
        })
    }

    fn body(&self, found: &Found) -> &[u8] {
        let at = (found.offset - FIRST_ENTRY) as usize + 64;
        &self.entries[at..at + found.length as usize]
    }
}

fn clear(target: &str) -> std::io::Result<()> {
    let directory = corpus::directory(target);
    std::fs::create_dir_all(&directory)?;
    for (name, _) in corpus::inputs(target) {
        if !name.starts_with("found-") {
            std::fs::remove_file(directory.join(name))?;
        }
    }
    Ok(())
}

fn keep(target: &str, name: &str, parts: &[&[u8]]) -> std::io::Result<()> {
    let mut bytes = parts.concat();
    bytes.truncate(LONGEST);
    std::fs::write(corpus::directory(target).join(name), bytes)
}

fn messages(packs: &[Pack], chunks: &[&CheckedChunk]) -> std::io::Result<()> {
    let session = SessionId::from_bytes([1; 16]);
    let ids: Vec<ChunkId> = chunks.iter().take(5).map(|chunk| chunk.id()).collect();
    let point = packs
        .iter()
        .flat_map(|pack| &pack.found)
        .find_map(|found| match &found.record {
            Some(Record::Point(point)) => Some(point),
            _ => None,
        });
    let Some(point) = point else {
        return Err(std::io::Error::other("no recovery point in the fixture"));
    };
    let public = point.manifest.public().map_err(std::io::Error::other)?;
    let tenant = TenantId::from_bytes([2; 16]);
    let requests = [
        (
            "hello",
            Request::Hello {
                software: "relevo 0.1.0".into(),
            },
        ),
        (
            "enroll",
            Request::Enroll {
                secret: [3; 32],
                certificate_request: vec![0x30; 200],
                name: "web1".into(),
                tenant,
            },
        ),
        ("open-session", Request::OpenSession),
        (
            "have",
            Request::Have {
                session,
                ids: ids.clone(),
            },
        ),
        ("put", Request::Put { session, chunks: 1 }),
        (
            "commit",
            Request::Commit {
                session,
                manifest: point.manifest.clone(),
            },
        ),
        ("list-servers", Request::ListServers),
        (
            "list-points",
            Request::ListPoints {
                server: public.server,
                after: None,
            },
        ),
        (
            "get-manifest",
            Request::GetManifest {
                point: public.point,
            },
        ),
        ("get", Request::Get { ids: ids.clone() }),
    ];
    let now = Timestamp::from_millis(1_700_000_000_000);
    let small = chunks.iter().min_by_key(|chunk| chunk.bytes().len());
    for (name, request) in requests {
        let mut stream = frame::encode(&request)
            .map_err(std::io::Error::other)?
            .to_vec();
        if name == "put"
            && let Some(chunk) = small
        {
            let prefix = frame::prefix(chunk.bytes()).map_err(std::io::Error::other)?;
            stream.extend_from_slice(&prefix);
            stream.extend_from_slice(chunk.bytes());
        }
        keep("message", &format!("request-{name}"), &[&[63], &stream])?;
    }
    let entry = PointEntry {
        manifest: public.clone(),
        committed: now,
        stored: 12,
        verified: Some(now),
    };
    let server = ServerEntry {
        id: public.server,
        name: "web1".into(),
        enrolled: now,
        points: 2,
        latest: Some(now),
    };
    let vault = VaultId::from_bytes([4; 16]);
    let software = String::from("relevo 0.1.0");
    let responses = [
        (
            "welcome",
            Response::Welcome {
                vault,
                software,
                now,
                epoch: 3,
            },
        ),
        ("session", Response::SessionOpened { session }),
        ("known", Response::Known(vec![0b101])),
        ("stored", Response::Stored { added: 4096 }),
        ("committed", Response::Committed { stored: 1 << 30 }),
        ("incomplete", Response::Incomplete { missing: ids }),
        ("servers", Response::Servers(vec![server])),
        ("points", Response::Points(vec![entry.clone(), entry])),
        ("manifest", Response::Manifest(point.manifest.clone())),
        ("chunks", Response::Chunks),
        (
            "refused",
            Response::Refused(Refusal::new(RefusalCode::Full, "no room", "make room")),
        ),
    ];
    for (name, response) in responses {
        let stream = frame::encode(&response).map_err(std::io::Error::other)?;
        keep("message", &format!("response-{name}"), &[&[255], &stream])?;
    }
    Ok(())
}

fn nodes_and_chunks(chunks: &[&CheckedChunk]) -> std::io::Result<()> {
    let (mut nodes, mut data): (Vec<&CheckedChunk>, Vec<_>) =
        chunks.iter().partition(|chunk| NodeLinks::is_node(chunk));
    nodes.sort_by_key(|node| node.bytes().len());
    data.sort_by_key(|chunk| chunk.bytes().len());
    for (number, node) in nodes.iter().take(3).enumerate() {
        keep("node", &format!("real-{number}"), &[&[0], node.bytes()])?;
    }
    let zeros = (4u32 << 20 | 0x8000_0000).to_le_bytes();
    let length = 65_536u32.to_le_bytes();
    let rest = (((4u32 << 20) - 65_536) | 0x8000_0000).to_le_bytes();
    keep("node", "leaf-of-zeros", &[&[1, 0, 0, 0, 1, 0], &zeros])?;
    let leaf: [&[u8]; 5] = [
        &[1, 0, 1, 0, 9, 9, 9, 9, 2, 0],
        &length,
        &[8; 32],
        &rest,
        &[],
    ];
    keep("node", "leaf", &leaf)?;
    let inner: [&[u8]; 3] = [&[1, 1, 1, 0, 9, 9, 9, 9, 3, 0, 0, 1], &[8; 32], &[0]];
    keep("node", "inner", &inner)?;
    keep(
        "node",
        "too-many-slots",
        &[&[1, 1, 0, 0, 129, 0], &[0; 129]],
    )?;
    for (number, chunk) in data.iter().take(2).enumerate() {
        keep(
            "chunk",
            &format!("real-{number}"),
            &[&[10, 0, 0], chunk.bytes()],
        )?;
    }
    keep("chunk", "stored", &[&[2, 0, 1], b"ten bytes."])?;
    keep("chunk", "compressed", &[&[2, 0, 1 | 2 | 8], b"ten bytes."])?;
    keep("chunk", "bomb", &[&[2, 0, 1 | 2 | 8 | 0xf0], &[0; 4096]])
}

fn pack_inputs(number: usize, pack: &Pack) -> std::io::Result<()> {
    let name = format!("real-{number}");
    keep("pack", &name, &[&[0], &pack.header, &pack.entries])?;
    // The last entries are manifests and servers.
    let mut built = vec![1, 0];
    let mut kept = [0usize; 12];
    for found in &pack.found {
        let Some(record) = &found.record else {
            continue;
        };
        let (kind, body) = (record.kind(), pack.body(found));
        if kept[kind as usize] < 3 && body.len() < 2048 {
            kept[kind as usize] += 1;
            built.push(kind as u8);
            built.extend_from_slice(&(body.len() as u16).to_le_bytes());
            built.extend_from_slice(body);
        }
    }
    keep("pack", &format!("built-{number}"), &[&built])?;
    built[1] = 2;
    let flipped = [&built[..2], &[77, 1, 0, 9, 9, 0], &built[2..]].concat();
    keep("pack", &format!("flipped-{number}"), &[&flipped])?;
    keep(
        "pack",
        "voids",
        &[&[1, 0, EntryKind::Void as u8, 32, 0], &[0; 32]],
    )
}

fn segments(directory: &Path, chunks: &[&CheckedChunk]) -> std::io::Result<()> {
    let mut ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id()).take(150).collect();
    ids.sort_unstable();
    ids.dedup();
    let tenant = TenantId::from_bytes([4; 16]);
    let change = |(number, id): (usize, &ChunkId)| Change {
        id: *id,
        place: match number % 5 {
            3 => Place::Removed,
            4 => Place::Unchanged,
            _ => Place::At(Spot {
                pack: 1,
                offset: 8192 + 16 * number as u64,
                length: 100,
                kind: ChunkKind::Data,
            }),
        },
        refs: number as i64 - 2,
    };
    let write = |count: usize| {
        let mut writer = SegmentWriter::create(directory, tenant, 1)?;
        for change in ids.iter().take(count).enumerate().map(change) {
            writer.push(&change)?;
        }
        writer.finish()
    };
    for count in [0, 1, 150] {
        let segment = write(count).map_err(std::io::Error::other)?;
        let bytes = std::fs::read(segment.path())?;
        keep("segment", &format!("real-{count}"), &[&[0], &bytes])?;
        if count == 150 {
            let records = &bytes[..4080];
            let tail: &[u8] = &[
                100, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9,
            ];
            keep("segment", "forged", &[&[1], tail, records])?;
        }
    }
    Ok(())
}

fn rebuilds() -> std::io::Result<()> {
    use commands::*;
    let inputs: &[(&str, &[u8])] = &[
        ("whole", &[IMAGE, 0, IMAGE, 1, IMAGE, 2]),
        (
            "two-tenants",
            &[IMAGE, 0, PACK, 1, 1, IMAGE, 1, PACK, 0, 2, IMAGE, 2],
        ),
        ("point-without-chunks", &[POINT, 0, CHUNK, 1, CHUNK, 2]),
        ("point-before-chunks", &[POINT, 0, PACK, 0, 2, IMAGE, 0]),
        ("of-another-tenant", &[IMAGE, 0, PACK, 1, 1, POINT, 0]),
        (
            "flipped",
            &[IMAGE, 0, FLIP, 0x11, 0x12, FLIP, 1, 0, IMAGE, 1],
        ),
        ("cut", &[IMAGE, 0, IMAGE, 1, CUT, 200, 0]),
        (
            "cut-then-more",
            &[IMAGE, 0, CUT, 33, 0, IMAGE, 1, PACK, 0, 2, IMAGE, 2],
        ),
        ("retired", &[IMAGE, 0, PACK, 0, 2, IMAGE, 1, RETIRE, 1]),
        (
            "header",
            &[
                IMAGE, 0, PACK, 0, 2, IMAGE, 1, HEADER, 4, PACK, 0, 3, HEADER, 6,
            ],
        ),
        (
            "records",
            &[
                IMAGE, 0, RECORD, 5, 2, 0x86, 0x80, RECORD, 8, 1, 0xa0, RECORD, 1, 3, 2, 1, 0,
            ],
        ),
        (
            "nodes",
            &[
                NODE, 0, 3, 0, 1, 2, NODE, 1, 2, 6, 6, NODE, 7, 1, 0, IMAGE, 0,
            ],
        ),
        (
            "numbers-with-gaps",
            &[IMAGE, 0, PACK, 0, 200, IMAGE, 1, PACK, 0, 0, IMAGE, 2],
        ),
    ];
    for (name, bytes) in inputs {
        keep("rebuild", name, &[bytes])?;
    }
    Ok(())
}
