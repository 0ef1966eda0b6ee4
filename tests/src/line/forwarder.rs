//! The thread that forwards: receives what there is, holds each packet until it is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::bottleneck::{Bottleneck, Verdict, on_line};
use super::{Control, Fate, LineSettings};

/// While packets are held, it wakes this often at most: each wakeup moves what came and what is
/// due since.
const STEP: Duration = Duration::from_micros(500);
/// How soon it notices that it is to stop.
const IDLE: Duration = Duration::from_millis(20);
/// What sockets hold while the thread does not run, in bytes.
const SOCKET_BUFFER: usize = 8 << 20;
/// What the kernel puts together of packets, at most.
const RECEIVED: usize = 1 << 16;
/// Most bytes of packets that are sent in one call.
const SENT: usize = 60_000;

/// A socket that takes and gives many packets at once.
struct Many {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Many {
    fn new(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // Without the right to force it, as much as the system gives.
        let size = SOCKET_BUFFER;
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, size).is_err() {
            let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), size);
        }
        if rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, size).is_err() {
            let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), size);
        }
        Ok(Self { socket, state })
    }

    fn send(&self, destination: SocketAddr, contents: &[u8], segment: usize) {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size: (contents.len() > segment).then_some(segment),
            src_ip: None,
        };
        // Packets may be lost, here too.
        let _ = self.state.send(UdpSockRef::from(&self.socket), &transmit);
    }
}

/// One peer of the vault.
struct Flow {
    client: SocketAddr,
    towards_vault: Many,
}

/// A packet that is under way. The order is that of coming out.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Duration,
    number: u64,
    up: bool,
    flow: usize,
    bytes: Vec<u8>,
}

pub(super) struct Forwarder {
    known: Many,
    vault: SocketAddr,
    control: Arc<Control>,
    flows: Vec<Flow>,
    under_way: BinaryHeap<Reverse<Packet>>,
    up: Bottleneck,
    down: Bottleneck,
    /// Packets taken so far.
    number: u64,
    /// Of those that came out, down and up.
    newest: [u64; 2],
    start: Instant,
    buffers: Vec<Vec<u8>>,
}

impl Forwarder {
    pub(super) fn new(
        socket: UdpSocket,
        vault: SocketAddr,
        control: Arc<Control>,
    ) -> io::Result<Self> {
        let seed = control.settings().seed;
        Ok(Self {
            known: Many::new(socket)?,
            vault,
            control,
            flows: Vec::new(),
            under_way: BinaryHeap::new(),
            up: Bottleneck::new(seed),
            down: Bottleneck::new(seed.wrapping_add(1)),
            number: 0,
            newest: [0; 2],
            start: Instant::now(),
            buffers: vec![vec![0; RECEIVED]; BATCH_SIZE],
        })
    }

    pub(super) fn run(mut self) {
        while !self.control.stop.load(Ordering::Relaxed) {
            self.rebind();
            let settings = *self.control.settings();
            self.receive(&settings);
            self.release();
            match self.under_way.peek() {
                Some(Reverse(next)) => {
                    let wait = next.due.saturating_sub(self.start.elapsed());
                    if wait > STEP {
                        self.wait(wait.min(IDLE));
                    }
                    std::thread::sleep(STEP);
                }
                None => self.wait(IDLE),
            }
        }
    }

    /// Until something comes, or the time is over.
    fn wait(&self, time: Duration) {
        let flows = self.flows.iter().map(|f| &f.towards_vault.socket);
        let mut watched: Vec<_> = std::iter::once(&self.known.socket)
            .chain(flows)
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        let timeout = Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: time.subsec_nanos().into(),
        };
        let _ = poll(&mut watched, Some(&timeout));
    }

    fn rebind(&mut self) {
        let asked = self.control.rebind.load(Ordering::Relaxed);
        if self.control.rebound.load(Ordering::Relaxed) == asked {
            return;
        }
        for flow in &mut self.flows {
            if let Ok(socket) = towards(self.vault) {
                flow.towards_vault = socket;
            }
        }
        self.control.rebound.store(asked, Ordering::Relaxed);
    }

    fn receive(&mut self, line: &LineSettings) {
        let mut buffers = std::mem::take(&mut self.buffers);
        for source in std::iter::once(None).chain((0..self.flows.len()).map(Some)) {
            // So that a flood in one direction does not stop the other.
            for _ in 0..8 {
                let many = source.map_or(&self.known, |flow| &self.flows[flow].towards_vault);
                let mut slices: Vec<_> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
                let mut meta = [RecvMeta::default(); BATCH_SIZE];
                let socket = UdpSockRef::from(&many.socket);
                let Ok(count) = many.state.recv(socket, &mut slices, &mut meta) else {
                    break;
                };
                for (meta, bytes) in meta.iter().zip(&buffers).take(count) {
                    let flow = source.or_else(|| self.flow_of(meta.addr));
                    let Some(flow) = flow else { continue };
                    for packet in bytes[..meta.len].chunks(meta.stride.max(1)) {
                        self.take(packet, flow, source.is_none(), line);
                    }
                }
            }
        }
        self.buffers = buffers;
    }

    fn flow_of(&mut self, client: SocketAddr) -> Option<usize> {
        let known = self.flows.iter().position(|flow| flow.client == client);
        known.or_else(|| {
            let towards_vault = towards(self.vault).ok()?;
            self.flows.push(Flow {
                client,
                towards_vault,
            });
            Some(self.flows.len() - 1)
        })
    }

    fn take(&mut self, bytes: &[u8], flow: usize, up: bool, line: &LineSettings) {
        let now = self.start.elapsed();
        let (bottleneck, fate) = match up {
            true => (&mut self.up, &self.control.up),
            false => (&mut self.down, &self.control.down),
        };
        let verdict = match self.control.cut.load(Ordering::Relaxed) {
            true => Verdict::Lost,
            false => bottleneck.take(now, bytes.len(), line),
        };
        match verdict {
            Verdict::Lost => Fate::count(&fate.lost, 1),
            Verdict::Overflowed => Fate::count(&fate.overflowed, 1),
            Verdict::TooLarge => {}
            Verdict::Carried(due) => {
                self.number += 1;
                self.under_way.push(Reverse(Packet {
                    due,
                    number: self.number,
                    up,
                    flow,
                    bytes: bytes.to_vec(),
                }));
            }
        }
    }

    /// Sends on what is due, packets of one size and one way together.
    fn release(&mut self) {
        let now = self.start.elapsed();
        let mut run: Vec<u8> = Vec::with_capacity(SENT);
        // Of the packets in `run`: which way, whose, how long, and how many.
        let mut kind: Option<(bool, usize, usize, usize)> = None;
        while let Some(Reverse(next)) = self.under_way.peek()
            && next.due <= now
        {
            let Some(Reverse(packet)) = self.under_way.pop() else {
                break;
            };
            let fate = match packet.up {
                true => &self.control.up,
                false => &self.control.down,
            };
            Fate::count(&fate.carried, on_line(packet.bytes.len()));
            let newest = &mut self.newest[usize::from(packet.up)];
            Fate::count(&fate.overtaken, u64::from(packet.number < *newest));
            *newest = packet.number.max(*newest);
            let limit = self.known.state.max_gso_segments();
            let joins = kind.is_some_and(|(up, flow, length, count)| {
                (up, flow, length) == (packet.up, packet.flow, packet.bytes.len())
                    && count < limit
                    && run.len() + length <= SENT
            });
            if !joins {
                self.send(kind, &run);
                run.clear();
                kind = Some((packet.up, packet.flow, packet.bytes.len(), 0));
            }
            run.extend_from_slice(&packet.bytes);
            kind = kind.map(|(up, flow, length, count)| (up, flow, length, count + 1));
        }
        self.send(kind, &run);
    }

    fn send(&self, kind: Option<(bool, usize, usize, usize)>, run: &[u8]) {
        let Some((up, flow, length, _)) = kind else {
            return;
        };
        let flow = &self.flows[flow];
        match up {
            true => flow.towards_vault.send(self.vault, run, length),
            false => self.known.send(flow.client, run, length),
        }
    }
}

/// A new address towards the vault.
fn towards(vault: SocketAddr) -> io::Result<Many> {
    let any = match vault {
        SocketAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)),
    };
    Many::new(UdpSocket::bind(any)?)
}
