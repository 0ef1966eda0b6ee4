//! The bytes that docs/wire.md and docs/format.md promise, written out by hand.
#![allow(clippy::unwrap_used)]

use relevo_wire::frame;
use relevo_wire::manifest::{
    Consistency, DiskImage, Faults, Gone, Held, HookPhase, HookRun, ManifestBody,
};
use relevo_wire::message::{Refusal, RefusalCode, Request, Response, ServerEntry};
use relevo_wire::{ChunkId, PointId, ServerId, SessionId, Timestamp};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
}

/// Guards peers and readers that were written from the documents.
#[test]
fn messages_are_encoded_as_documented() {
    let id = |byte| ChunkId::from_bytes([byte; 32]);
    let session = SessionId::from_bytes([7; 16]);
    let s = format!("50{}", "07".repeat(16));
    let (a, b) = (
        format!("5820{}", "0a".repeat(32)),
        format!("5820{}", "0b".repeat(32)),
    );
    let open = hex(&minicbor::to_vec(Request::OpenSession).unwrap());
    assert_eq!(open, "820280", "[2, []]");
    let have = Request::Have {
        session,
        ids: vec![id(10), id(11)],
    };
    let have = hex(&minicbor::to_vec(have).unwrap());
    assert_eq!(
        have,
        format!("820382{s}82{a}{b}"),
        "[3, [session, [id, id]]]"
    );
    let known = hex(&minicbor::to_vec(Response::Known(vec![5])).unwrap());
    assert_eq!(known, "8204814105", "[4, [bits]]");
    let refusal = Refusal::new(RefusalCode::Full, "c", "r");
    let refused = hex(&minicbor::to_vec(Response::Refused(refusal)).unwrap());
    assert_eq!(refused, "820081830461636172", "[0, [[4, cause, remedy]]]");
    let server = |latest| ServerEntry {
        id: ServerId::from_bytes([7; 16]),
        name: "n".into(),
        enrolled: Timestamp::from_millis(-1),
        points: 2,
        latest,
    };
    let without = hex(&minicbor::to_vec(server(None)).unwrap());
    assert_eq!(
        without,
        format!("84{s}616e2002"),
        "no moment at the end: left out"
    );
    let with = hex(&minicbor::to_vec(server(Some(Timestamp::from_millis(3)))).unwrap());
    assert_eq!(with, format!("85{s}616e200203"));
    let framed = frame::encode(&Request::OpenSession).unwrap();
    assert_eq!(hex(&framed), "03000000820280");
}

#[test]
fn manifests_are_encoded_as_documented() {
    let crash = hex(&minicbor::to_vec(Consistency::Crash).unwrap());
    assert_eq!(crash, "820180", "[1, []]");
    let disk = DiskImage {
        name: "n".into(),
        size: 1,
        root: None,
        sector: 2,
        serial: Some("s".into()),
        faults: None,
    };
    let disk = hex(&minicbor::to_vec(disk).unwrap());
    assert_eq!(
        disk, "85616e01f6026173",
        "[name, size, null, sector, serial]"
    );
    let faults = Faults::new(
        vec![(1, 2)],
        Some(Gone::AsIn(PointId::from_bytes([7; 16]))),
        9,
    );
    let faults = hex(&minicbor::to_vec(faults).unwrap());
    let point = "50".to_owned() + &"07".repeat(16);
    assert_eq!(faults, format!("8281820102820181{point}"));
    let held = Held {
        instant: Some(Timestamp::from_millis(1)),
        freeze_ms: 2,
        frozen: vec!["/".into()],
        reasons: vec!["r".into()],
        hooks: vec![HookRun {
            name: "h".into(),
            phase: HookPhase::Post,
            took_ms: 3,
            failure: None,
        }],
    };
    assert_eq!(
        hex(&minicbor::to_vec(held).unwrap()),
        "85010281612f8161728183616882018003",
        "[instant, freeze, [frozen], [reason], [[name, [1, []], took]]]"
    );
}

/// Guards every recovery point that was made before version 2.
#[test]
fn manifests_of_version_1_are_read() {
    let bytes = unhex("878184616401f602808201800161740102");
    let body: ManifestBody = minicbor::decode(&bytes).unwrap();
    assert_eq!(body.consistency, Consistency::Crash);
    assert_eq!((body.held, body.disks[0].faults.clone()), (None, None));
    assert_eq!((body.disks[0].name.as_str(), body.disks[0].size), ("d", 1));
    assert_eq!(body.finished, Timestamp::from_millis(2));
}
