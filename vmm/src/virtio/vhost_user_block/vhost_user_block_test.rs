//! Guards the front end against a small server: the data path, both queues, a reset, and
//! a server that goes away.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::virtio::fake_driver::{Bench, FakeQueue, ram, wait};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tempfile::TempDir;
use vhost::vhost_user::Listener;
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

type Shared = GuestMemoryAtomic<GuestMemoryMmap>;

struct MemoryDisk {
    bytes: Vec<u8>,
    memory: Option<Shared>,
    protocol: VhostUserProtocolFeatures,
}

impl MemoryDisk {
    fn request(&mut self, queue: &mut virtio_queue::Queue) {
        let memory = self.memory.as_ref().unwrap().memory();
        while let Some(chain) = queue.iter(memory.clone()).unwrap().next() {
            let head = chain.head_index();
            let mut reader = chain.clone().reader::<()>(&memory).unwrap();
            let mut writer = chain.writer::<()>(&memory).unwrap();
            let mut header = [0; 16];
            reader.read_exact(&mut header).unwrap();
            let offset = u64::from_le_bytes(header[8..].try_into().unwrap()) as usize * 512;
            if header[0] == 0 {
                let len = writer.available_bytes() - 1;
                writer.write_all(&self.bytes[offset..offset + len]).unwrap();
            } else {
                let len = reader.available_bytes();
                reader
                    .read_exact(&mut self.bytes[offset..offset + len])
                    .unwrap();
            }
            writer.write_all(&[0]).unwrap();
            queue
                .add_used(&*memory, head, writer.bytes_written() as u32)
                .unwrap();
        }
    }
}

impl VhostUserBackendMut for MemoryDisk {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2
    }
    fn max_queue_size(&self) -> usize {
        256
    }
    fn features(&self) -> u64 {
        F_MQ | F_FLUSH
            | VIRTIO_F_VERSION_1
            | VIRTIO_F_EVENT_IDX
            | 1 << 60
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }
    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.protocol
    }
    fn set_event_idx(&mut self, _: bool) {}
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = [0; 96];
        config[..8].copy_from_slice(&(self.bytes.len() as u64 / 512).to_le_bytes());
        config[CONFIG_NUM_QUEUES..CONFIG_NUM_QUEUES + 2].copy_from_slice(&5_u16.to_le_bytes());
        config[offset as usize..(offset + size) as usize].to_vec()
    }
    fn update_memory(&mut self, memory: Shared) -> io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }
    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }
    fn handle_event(
        &mut self,
        index: u16,
        _: EventSet,
        vrings: &[VringRwLock],
        _: usize,
    ) -> io::Result<()> {
        let vring = &vrings[usize::from(index)];
        self.request(vring.get_mut().get_queue_mut());
        vring.signal_used_queue()
    }
}

type Daemon = VhostUserDaemon<Arc<Mutex<MemoryDisk>>>;

struct Server {
    dir: TempDir,
    starting: Option<JoinHandle<Daemon>>,
}

impl Server {
    fn new(protocol: VhostUserProtocolFeatures) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut listener = Listener::new(dir.path().join("disk"), false).unwrap();
        let disk = MemoryDisk {
            bytes: (0..64_u8).flat_map(|sector| [sector; 512]).collect(),
            memory: None,
            protocol,
        };
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon =
            VhostUserDaemon::new("disk".into(), Arc::new(Mutex::new(disk)), memory).unwrap();
        let starting = std::thread::spawn(move || {
            daemon.start(&mut listener).unwrap();
            daemon
        });
        Self {
            dir,
            starting: Some(starting),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn end(&mut self) {
        let mut daemon = self.starting.take().unwrap().join().unwrap();
        daemon.request_shutdown();
        let _ = daemon.wait();
    }
}

fn everything() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::REPLY_ACK
}

/// Reads or writes one sector at 0x30000 and returns its status.
fn transfer(bench: &Bench, ring: &mut FakeQueue, index: usize, kind: u32, sector: u64) -> u8 {
    let at = 0x1_0000 + 0x1000 * index as u64;
    let memory = &bench.memory;
    memory.write_obj(kind, GuestAddress(at)).unwrap();
    memory.write_obj(sector, GuestAddress(at + 8)).unwrap();
    memory.write_obj(0xEE_u8, GuestAddress(at + 16)).unwrap();
    ring.add(&[
        (at, 16, false),
        (0x3_0000, 512, kind == 0),
        (at + 16, 1, true),
    ]);
    bench.run(index, ring);
    memory.read_obj(GuestAddress(at + 16)).unwrap()
}

fn sector_in(memory: &GuestMemory) -> [u8; 512] {
    let mut bytes = [0; 512];
    memory
        .read_slice(&mut bytes, GuestAddress(0x3_0000))
        .unwrap();
    bytes
}

#[test]
fn a_server_serves_both_queues_over_resets_until_it_goes_away() {
    let mut server = Server::new(everything());
    let mut disk = VhostUserBlock::connect_within(&server.path(), PATIENCE).unwrap();
    assert_eq!(disk.size(), 64 * 512);
    assert_eq!(
        disk.queue_sizes().len(),
        2,
        "the server claims five, but has two"
    );
    assert_eq!(
        disk.features() & 1 << 60,
        0,
        "unknown features are not passed on"
    );
    let mut queues = [0; 2];
    disk.read_config(CONFIG_NUM_QUEUES as u64, &mut queues);
    assert_eq!(u16::from_le_bytes(queues), 2);

    let memory = ram();
    let bench = Bench::new(&memory, 2);
    for round in 0..3_u8 {
        let mut first = FakeQueue::new(&memory, 0x1000, 16);
        let mut second = FakeQueue::new(&memory, 0x4000, 16);
        disk.activate(bench.activation(disk.features(), &[&first, &second]))
            .unwrap();
        assert_eq!(transfer(&bench, &mut first, 0, 0, 9), 0);
        assert_eq!(sector_in(&memory), [9; 512]);
        memory
            .write_slice(&[0xA0 + round; 512], GuestAddress(0x3_0000))
            .unwrap();
        assert_eq!(transfer(&bench, &mut second, 1, 1, 3), 0);
        assert_eq!(transfer(&bench, &mut second, 1, 0, 4), 0);
        assert_eq!(transfer(&bench, &mut first, 0, 0, 3), 0);
        assert_eq!(sector_in(&memory), [0xA0 + round; 512]);
        if round < 2 {
            disk.reset();
            first.add(&[(0x1_0000, 16, false), (0x1_0010, 1, true)]);
            bench.kicks[0].write(1).unwrap();
            assert_eq!(first.take_used(), None, "a stopped queue is left alone");
            let _ = bench.kicks[0].read();
        }
    }

    let lost = disk.lost().unwrap();
    assert!(lost.read().is_err(), "not lost yet");
    server.end();
    wait(&lost);
    wait(&bench.lines[2]);
    assert!(bench.interrupt.needs_reset());
    disk.reset();
    let ring = FakeQueue::new(&memory, 0x1000, 16);
    let again = disk.activate(bench.activation(disk.features(), &[&ring]));
    assert!(matches!(again, Err(ActivateError::Backend { .. })));
}

#[test]
fn a_server_that_cannot_be_used_is_refused_with_a_reason() {
    let mut server = Server::new(VhostUserProtocolFeatures::MQ);
    let error = VhostUserBlock::connect_within(&server.path(), PATIENCE)
        .err()
        .unwrap();
    assert!(matches!(error, DeviceError::BackendLacks { .. }), "{error}");
    assert!(error.remedy().contains("vhost-user-blk"));
    server.end();
    let error = VhostUserBlock::connect_within(Path::new("/nonexistent/disk"), PATIENCE).err();
    assert!(matches!(error, Some(DeviceError::Open { .. })));
}

/// Guards that a server that hangs cannot keep the machine from ending: the question comes
/// back, and the machine hears that the disk is lost.
#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let listener = UnixListener::bind(&path).unwrap();
    let silent = std::thread::spawn(move || listener.accept().unwrap());
    let error = VhostUserBlock::connect_within(&path, Duration::from_millis(50)).err();
    assert!(
        matches!(error, Some(DeviceError::Backend { .. })),
        "{error:?}"
    );
    drop(silent.join().unwrap());

    let server = Server::new(everything());
    let mut disk = VhostUserBlock::connect_within(&server.path(), PATIENCE).unwrap();
    let lost = disk.lost().unwrap();
    disk.server.patience = Duration::from_millis(50);
    let answer = disk.server.ask(|frontend| {
        // The question lasts until the connection is closed over it.
        wait(&lost);
        frontend.get_features()
    });
    assert!(answer.is_err());
}
