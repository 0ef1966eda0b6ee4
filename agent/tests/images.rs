//! Whole runs against a vault in memory: what was imaged comes back bit for bit, and only what
//! must be is sent.

#![allow(clippy::unwrap_used)]

mod simulated;

use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use relevo_agent::AgentError;
use relevo_agent::disk::DiskError;
use relevo_agent::pipeline::Counters;
use relevo_wire::index::SPAN;
use relevo_wire::manifest::Consistency;
use simulated::{Server, SimulatedVault, noise, run, sparse};

const MIB: usize = 1 << 20;

fn data() -> impl Strategy<Value = (u64, Vec<u8>)> {
    let bytes = prop_oneof![
        3 => (any::<u64>(), 1..3 * MIB).prop_map(|(seed, n)| noise(seed, n)),
        1 => (any::<u8>(), 1..3 * MIB).prop_map(|(byte, n)| vec![byte; n]),
        1 => (1..2 * MIB).prop_map(|n| vec![0; n]),
    ];
    (0u64..24 << 20, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Guards the whole path: any disk, any number of broken connections, nothing sent twice;
    /// and a second image of the same disk sends next to nothing.
    #[test]
    fn any_disk_comes_back_bit_for_bit(
        size in 1u64..24 << 20,
        data in proptest::collection::vec(data(), 0..6),
        breaks in proptest::collection::vec(1usize..12, 0..5),
    ) {
        let (server, vault) = (Server::new(), SimulatedVault::new());
        sparse(&server.disk(), size, &data);
        vault.state().breaks = breaks.clone();
        let first = server.backup(&vault).unwrap();
        let source = std::fs::read(server.disk()).unwrap();
        prop_assert!(vault.restore(&server.keys, 0) == source, "the image differs");
        prop_assert!(first.read_bytes <= first.disk_bytes);
        prop_assert_eq!(first.disk_bytes, size);
        vault.state().breaks = breaks;
        let second = server.backup(&vault).unwrap();
        prop_assert!(vault.restore(&server.keys, 0) == source, "the second image differs");
        prop_assert_eq!(second.changed_bytes, 0);
        prop_assert_eq!(second.new_bytes, 0);
        prop_assert_eq!(second.sent_bytes, 0);
        prop_assert_eq!(vault.state().sent_twice, 0);
    }
}

/// Guards a rotation's price: a new pair costs nothing, a new secret some nodes of the index; what
/// is stored stays stored, and images of every generation open.
#[test]
fn rotated_keys_send_nothing_again() {
    let (mut server, vault) = (Server::new(), SimulatedVault::new());
    let size = 40 * MIB as u64;
    sparse(&server.disk(), size, &[(0, noise(7, 36 * MIB))]);
    let first = server.backup(&vault).unwrap();
    server.keys.rotate(false).unwrap();
    let pair = server.backup(&vault).unwrap();
    assert_eq!((pair.changed_bytes, pair.sent_bytes), (0, 0));
    server.keys.rotate(true).unwrap();
    let secret = server.backup(&vault).unwrap();
    assert_eq!((secret.changed_bytes, secret.new_bytes), (0, 0));
    assert!(
        secret.sent_bytes < 8192,
        "{} bytes were sent",
        secret.sent_bytes
    );
    // In a span that changed, what did not change is known still.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(server.disk())
        .unwrap();
    file.write_all_at(&noise(8, 4096), 2 * MIB as u64).unwrap();
    let changed = server.backup(&vault).unwrap();
    assert!(
        changed.new_bytes < 3 * 256 * 1024,
        "{} bytes are new",
        changed.new_bytes
    );
    assert!(vault.restore(&server.keys, 0) == std::fs::read(server.disk()).unwrap());
    assert!(first.sent_bytes > 30 * MIB as u64);
    let oldest = vault.state().points[0].open(&server.keys);
    assert!(oldest.is_ok(), "the first image does not open");
}

#[test]
fn one_changed_block_costs_one_span_of_index_and_one_or_two_chunks() {
    let (server, vault) = (Server::new(), SimulatedVault::new());
    sparse(&server.disk(), 64 << 20, &[(0, noise(1, 24 * MIB))]);
    let first = server.backup(&vault).unwrap();
    assert_eq!(first.changed_bytes, 24 << 20);
    assert_eq!(first.new_bytes, 24 << 20);
    let file = std::fs::File::options()
        .write(true)
        .open(server.disk())
        .unwrap();
    file.write_all_at(&noise(2, 4096), 9 << 20).unwrap();
    let second = server.backup(&vault).unwrap();
    assert_eq!(second.changed_bytes, SPAN);
    assert!(second.new_bytes <= 2 * 256 * 1024, "{second:?}");
    assert!(second.sent_bytes * 30 < first.sent_bytes, "{second:?}");
    // Zeroing what was data is a change too, and must not come back as the old data.
    file.write_all_at(&vec![0; SPAN as usize], 0).unwrap();
    let third = server.backup(&vault).unwrap();
    assert_eq!((third.changed_bytes, third.new_bytes), (SPAN, 0));
    assert!(vault.restore(&server.keys, 0) == std::fs::read(server.disk()).unwrap());
    assert_eq!(server.backup(&vault).unwrap().changed_bytes, 0);
}

/// Guards against paying twice for a run that died: what was acknowledged never travels again.
#[test]
fn a_run_that_failed_half_way_goes_on_where_it_was() {
    let (server, vault) = (Server::new(), SimulatedVault::new());
    sparse(&server.disk(), 16 << 20, &[(0, noise(3, 16 * MIB))]);
    vault.state().fail_after_puts = Some(20);
    let error = server.backup(&vault).unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    assert!(vault.state().points.is_empty());
    vault.state().fail_after_puts = None;
    let report = server.backup(&vault).unwrap();
    assert!(report.new_bytes < 12 << 20, "{report:?}");
    assert_eq!(vault.state().sent_twice, 0);
    assert!(vault.restore(&server.keys, 0) == std::fs::read(server.disk()).unwrap());
}

/// Guards first images over long lines, and servers that sleep for a day in the midst of one: the
/// vault closes an upload some time, and another goes on with it.
#[test]
fn an_upload_that_the_vault_closed_is_opened_again() {
    let (server, vault) = (Server::new(), SimulatedVault::new());
    sparse(&server.disk(), 8 << 20, &[(0, noise(3, 8 * MIB))]);
    vault.state().forget_after_puts = Some(4);
    server.backup(&vault).unwrap();
    assert_eq!(vault.state().dials, 2);
    assert_eq!(vault.state().sent_twice, 0);
    assert!(vault.restore(&server.keys, 0) == std::fs::read(server.disk()).unwrap());
}

/// Guards against a run that was asked to end and goes on, reads the rest of the disk first, or
/// forgets what the vault acknowledged.
#[test]
fn a_run_that_is_asked_to_end_does_and_is_gone_on_with() {
    let (server, vault) = (Server::new(), SimulatedVault::new());
    sparse(&server.disk(), 64 << 20, &[(0, noise(3, 64 * MIB))]);
    let asked = server.run();
    let counters = asked.counters.clone();
    vault.state().stop_after_puts = Some((20, asked.stop.clone()));
    let error = run(asked, &vault).unwrap_err();
    assert!(matches!(error, AgentError::Interrupted), "{error}");
    assert_eq!(error.exit_code(), 130);
    assert!(vault.state().points.is_empty());
    assert!(Counters::get(&counters.read) < 64 << 20);
    vault.state().stop_after_puts = None;
    server.backup(&vault).unwrap();
    assert_eq!(vault.state().sent_twice, 0);
    assert!(vault.restore(&server.keys, 0) == std::fs::read(server.disk()).unwrap());
}

/// Guards against hours of reading after the vault has said no: an unchanged disk offers it
/// nothing that would tell the readers.
#[test]
fn a_vault_that_refuses_ends_the_reading_of_an_unchanged_disk() {
    let (server, vault) = (Server::new(), SimulatedVault::new());
    sparse(&server.disk(), 512 << 20, &[(0, vec![7; 512 * MIB])]);
    server.backup(&vault).unwrap();
    let file = std::fs::File::options()
        .write(true)
        .open(server.disk())
        .unwrap();
    file.write_all_at(&noise(12, 4 * MIB), 0).unwrap();
    vault.state().fail_after_puts = Some(0);
    let again = server.run();
    let counters = again.counters.clone();
    run(again, &vault).unwrap_err();
    assert!(Counters::get(&counters.read) < 512 << 20);
}

/// Guards against a cache that believes in chunks that the vault has lost: a node among them
/// hides what is missing below it.
#[test]
fn what_the_vault_lost_is_sent_again() {
    let (server, vault) = (Server::new(), SimulatedVault::new());
    sparse(&server.disk(), 16 << 20, &[(0, noise(4, 16 * MIB))]);
    let first = server.backup(&vault).unwrap();
    vault.state().chunks.clear();
    let second = server.backup(&vault).unwrap();
    assert_eq!(second.sent_bytes, first.sent_bytes);
    assert!(vault.restore(&server.keys, 0) == std::fs::read(server.disk()).unwrap());
    vault.state().epoch += 1;
    let third = server.backup(&vault).unwrap();
    assert_eq!((third.changed_bytes, third.new_bytes), (16 << 20, 0));
}

#[test]
fn a_lost_or_damaged_cache_costs_time_only() {
    let (server, vault) = (Server::new(), SimulatedVault::new());
    sparse(&server.disk(), 8 << 20, &[(0, noise(5, 8 * MIB))]);
    server.backup(&vault).unwrap();
    std::fs::write(server.cache(), b"SQLite format 3\0 and then nonsense").unwrap();
    let second = server.backup(&vault).unwrap();
    assert_eq!((second.new_bytes, second.sent_bytes), (0, 0));
    assert!(vault.restore(&server.keys, 0) == std::fs::read(server.disk()).unwrap());
}

#[test]
fn a_disk_cut_off_while_it_is_read_makes_no_recovery_point() {
    let (server, vault) = (Server::new(), SimulatedVault::new());
    sparse(&server.disk(), 16 << 20, &[(0, noise(6, 8 * MIB))]);
    for length in [12 << 20, 5 << 20] {
        let prepared = server.run();
        let file = std::fs::File::options()
            .write(true)
            .open(server.disk())
            .unwrap();
        file.set_len(length).unwrap();
        let error = run(prepared, &vault).unwrap_err();
        let AgentError::Disk(DiskError::Shrank { offset, .. }) = &error else {
            panic!("{error}")
        };
        assert_eq!(*offset, length);
        assert!(error.remedy().contains("no recovery point"));
    }
    assert!(vault.state().points.is_empty());
}

#[test]
fn a_file_written_while_it_is_read_is_called_fuzzy() {
    let (server, vault) = (Server::new(), SimulatedVault::new());
    sparse(&server.disk(), 1 << 20, &[(0, noise(7, MIB))]);
    server.backup(&vault).unwrap();
    let (_, body) = vault.last_point(&server.keys);
    assert_eq!(body.consistency, Consistency::Offline);
    let prepared = server.run();
    let file = std::fs::File::options()
        .write(true)
        .open(server.disk())
        .unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    run(prepared, &vault).unwrap();
    let (_, body) = vault.last_point(&server.keys);
    assert_eq!(body.consistency, Consistency::Fuzzy);
}

#[test]
fn several_disks_and_the_inventory_are_one_recovery_point() {
    let (server, vault) = (Server::new(), SimulatedVault::new());
    let other = server.dir.path().join("other.raw");
    sparse(&server.disk(), 5 << 20, &[(MIB as u64, noise(8, 2 * MIB))]);
    sparse(&other, 600 << 20, &[(590 << 20, noise(9, MIB))]);
    let report = run(server.run_of(&[server.disk(), other.clone()]), &vault).unwrap();
    assert_eq!(report.disk_bytes, 605 << 20);
    assert!(report.read_bytes < 4 << 20, "holes were read: {report:?}");
    let (_, body) = vault.last_point(&server.keys);
    let names: Vec<_> = body.disks.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["disk", "other"]);
    assert!(vault.restore(&server.keys, 0) == std::fs::read(server.disk()).unwrap());
    assert!(vault.restore(&server.keys, 1) == std::fs::read(&other).unwrap());
    assert_eq!(vault.inventory(&server.keys).hostname, "web1");
}

#[test]
fn disks_of_the_same_server_kind_share_their_chunks() {
    let (one, vault) = (Server::new(), SimulatedVault::new());
    let mut two = Server::new();
    two.keys.sealing = one.keys.sealing.clone();
    sparse(&one.disk(), 8 << 20, &[(0, noise(10, 8 * MIB))]);
    sparse(&two.disk(), 8 << 20, &[(0, noise(10, 8 * MIB))]);
    one.backup(&vault).unwrap();
    let report = two.backup(&vault).unwrap();
    assert_eq!((report.new_bytes, report.sent_bytes), (0, 0));
}
