//! Guards the network card: frames go both ways whole, and wait for the driver's buffers.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::virtio::fake_driver::{Bench, FakeQueue, Part, ram, wait};
use proptest::prelude::*;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::Command;
use vm_memory::{Bytes, GuestAddress};

const ETHERTYPE: u16 = 0x88B5;
const RECEIVE_BUFFERS: u64 = 0x10_0000;
const SEND_BUFFER: u64 = 0x8_0000;
const TAP: &str = "relevo-test0";

#[test]
fn a_mac_address_is_read_strictly_and_derived_stably() {
    let mac: MacAddress = "52:54:00:ab:CD:0f".parse().unwrap();
    assert_eq!(mac.octets(), [0x52, 0x54, 0, 0xAB, 0xCD, 0x0F]);
    assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
    for bad in [
        "",
        "52:54:00:ab:cd",
        "52:54:00:ab:cd:0f:1",
        "53:54:00:ab:cd:0f",
        "00:00:00:00:00:00",
        "5:54:00:ab:cd:0f",
        "+5:54:00:ab:cd:0f",
    ] {
        assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
    }
    assert_eq!(
        MacAddress::derived_from("tap0"),
        MacAddress::derived_from("tap0")
    );
    assert_ne!(
        MacAddress::derived_from("tap0"),
        MacAddress::derived_from("tap1")
    );
}

/// Runs `test` with a tap in a network namespace of its own, if this user may make one.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        // SAFETY: unshare touches no memory; it changes this thread's namespace only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!("skipped: this user may not make a network namespace");
            return;
        }
        // A child of this thread runs in its namespace.
        if let Err(error) = Command::new("ip").arg("-V").output() {
            eprintln!("skipped: ip: {error}");
            return;
        }
        ip(&["tuntap", "add", "dev", TAP, "mode", "tap"]);
        test();
    };
    std::thread::spawn(body).join().unwrap();
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}

/// A socket that sends and receives whole frames on the host's side of the tap.
fn host_side() -> File {
    let protocol = ETHERTYPE.to_be();
    // SAFETY: no pointers are involved.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol)) };
    assert!(fd >= 0);
    // SAFETY: `fd` is open and nothing else owns it.
    let socket = unsafe { File::from_raw_fd(fd) };
    let name = std::ffi::CString::new(TAP).unwrap();
    // SAFETY: `name` is a valid C string for the length of the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: a sockaddr_ll is plain data; all zeroes is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index as i32;
    // SAFETY: the pointer and length are those of `address`.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    assert_eq!(result, 0);
    socket
}

fn frame(len: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![0xFF; 6];
    frame.extend_from_slice(&[0x52, 0x54, 0, 1, 2, 3]);
    frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
    frame.resize(len, fill);
    frame
}

struct Guest {
    memory: GuestMemory,
    bench: Bench,
    receive: FakeQueue,
    transmit: FakeQueue,
    card: TapNet,
    posted: Vec<(u64, u32)>,
}

impl Guest {
    fn new(features: u64) -> Self {
        let memory = ram();
        let bench = Bench::new(&memory, 2);
        let receive = FakeQueue::new(&memory, 0x1000, 32);
        let transmit = FakeQueue::new(&memory, 0x4000, 32);
        let mut card = TapNet::open(TAP, None).unwrap();
        card.activate(bench.activation(features, &[&receive, &transmit]))
            .unwrap();
        // Only now, with a carrier: an interface set up without one comes to life some time
        // after it gets one, and drops frames until then.
        ip(&["link", "set", TAP, "up"]);
        Self {
            memory,
            bench,
            receive,
            transmit,
            card,
            posted: Vec::new(),
        }
    }

    fn post(&mut self, size: u32) {
        let at = RECEIVE_BUFFERS + 0x2_0000 * self.posted.len() as u64;
        self.posted.push((at, size));
        self.receive.add(&[(at, size, true)]);
        self.bench.kicks[0].write(1).unwrap();
    }

    /// The next test frame, with the number of buffers it came in.
    fn next(&mut self) -> (Vec<u8>, u16) {
        loop {
            let mut bytes = Vec::new();
            let mut wanted = 1;
            let mut got = 0;
            while got < wanted {
                let Some((id, len)) = self.receive.take_used() else {
                    wait(&self.bench.lines[0]);
                    continue;
                };
                let mut piece = vec![0; len as usize];
                let at = GuestAddress(self.posted[id as usize].0);
                self.memory.read_slice(&mut piece, at).unwrap();
                bytes.extend(piece);
                got += 1;
                wanted = u16::from_le_bytes([bytes[10], bytes[11]]);
            }
            let frame = bytes.split_off(frames::HEADER_SIZE);
            // The host may send frames of its own (IPv6 does).
            if frame[12..14] == ETHERTYPE.to_be_bytes() {
                return (frame, got);
            }
            self.post(2048);
        }
    }
}

#[test]
fn frames_go_both_ways_and_wait_for_buffers() {
    in_namespace(|| {
        let mut guest = Guest::new(F_MAC);
        let mut host = host_side();
        assert_eq!(guest.card.mac(), MacAddress::derived_from(TAP));

        // No buffer yet: the frame waits until there is one.
        host.write_all(&frame(100, 1)).unwrap();
        for _ in 0..8 {
            guest.post(2048);
        }
        assert_eq!(guest.next(), (frame(100, 1), 1));
        host.write_all(&frame(1514, 2)).unwrap();
        assert_eq!(guest.next(), (frame(1514, 2), 1));

        for len in [60, 1514] {
            let mut sent = vec![0; frames::HEADER_SIZE];
            sent.extend(frame(len, 3));
            guest
                .memory
                .write_slice(&sent, GuestAddress(SEND_BUFFER))
                .unwrap();
            let parts: [Part; 2] = [
                (SEND_BUFFER, 20, false),
                (SEND_BUFFER + 20, sent.len() as u32 - 20, false),
            ];
            guest.transmit.add(&parts);
            guest.bench.run(1, &mut guest.transmit);
            let mut got = [0; 2000];
            let count = host.read(&mut got).unwrap();
            assert_eq!(got[..count], frame(len, 3));
        }

        // A card that is reset lets the interface go on; one that is dropped frees it.
        guest.card.reset();
        assert!(matches!(
            TapNet::open(TAP, None),
            Err(DeviceError::Tap { .. })
        ));
        drop(guest);
        TapNet::open(TAP, None).unwrap();
    });
}

#[test]
fn a_frame_is_spread_over_mergeable_buffers() {
    in_namespace(|| {
        let mut guest = Guest::new(F_MAC | F_MRG_RXBUF | VIRTIO_F_EVENT_IDX);
        let mut host = host_side();
        for _ in 0..10 {
            guest.post(256);
        }
        host.write_all(&frame(1000, 9)).unwrap();
        let (got, buffers) = guest.next();
        assert_eq!(got, frame(1000, 9));
        assert_eq!(buffers, 4, "1012 bytes in buffers of 256");
    });
}

#[test]
fn a_tap_that_is_not_there_is_not_made() {
    in_namespace(|| {
        for name in ["missing0", "", "a-name-that-is-much-too-long"] {
            let error = TapNet::open(name, None).err();
            assert!(matches!(error, Some(DeviceError::NoTap { .. })), "{name}");
        }
        let error = TapNet::open("lo", None).err().unwrap();
        assert!(matches!(error, DeviceError::Tap { .. }), "{error}");
    });
}

proptest! {
    #[test]
    fn hostile_buffers_get_nothing_outside_them(
        buffers in proptest::collection::vec((0_u64..0x4000, 0_u32..3000, any::<bool>(), 0_u16..18), 16),
        heads in proptest::collection::vec(0_u16..16, 0..16),
        len in 14_usize..4000,
        mergeable in any::<bool>(),
    ) {
        let memory = ram();
        let mut ring = FakeQueue::new(&memory, 0x1000, 16);
        for (i, (at, len, write, next)) in buffers.iter().enumerate() {
            let flags = if *write { 2 } else { 0 } | u16::from(next % 2 == 0);
            ring.put_descriptor(i as u16, 0x1_0000 + at, *len, flags, *next);
        }
        for head in &heads {
            ring.publish(*head);
        }
        let mut queue = ring.queue();
        let mut source = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; frames::HEADER_SIZE];
        bytes.extend(frame(len, 0xAA));
        source.write_all(&bytes).unwrap();
        std::io::Seek::rewind(&mut source).unwrap();
        let mut receiver = Receiver::new(mergeable);
        prop_assert!(receiver.fetch(&source).unwrap());
        let delivered = receiver.deliver(&mut queue, &memory).unwrap();
        let mut outside = vec![0; 0x8000];
        memory.read_slice(&mut outside, GuestAddress(0x1_0000 + 0x4000 + 3000)).unwrap();
        prop_assert!(outside.iter().all(|byte| *byte == 0));
        let used = ring.take_used();
        prop_assert_eq!(delivered, used.is_some());
        if !delivered {
            prop_assert_eq!(queue.next_avail(), 0, "buffers are kept for later");
        }
    }
}
