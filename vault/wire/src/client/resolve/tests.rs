#![allow(clippy::unwrap_used)]
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::message::{Kind, Reply, question, reply};
use super::*;

/// How a small name server answers about a name.
#[derive(Clone)]
enum Told {
    /// An alias of another name, and that one's address.
    Alias(&'static str, Ipv4Addr),
    Both(Ipv6Addr, Ipv4Addr),
    /// Only over TCP, so many addresses.
    Many(u8),
    /// First a forged answer, then the right one.
    AfterForgery(Ipv4Addr),
    Fails,
}

/// A name server on loopback that remembers what it was asked.
struct Server {
    dir: tempfile::TempDir,
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(told: &[(&'static str, Told)], config: &str, hosts: &str) -> Self {
        let told: Arc<HashMap<_, _>> = Arc::new(told.iter().cloned().collect());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind(("127.0.0.1", port)).await.unwrap();
        let (names, heard) = (told.clone(), asked.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let question = &buffer[..length];
                for answer in answers(question, &names, false, &heard) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let heard = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut question = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut question).await.unwrap();
                for answer in answers(&question, &told, true, &heard) {
                    stream.write_u16(answer.len() as u16).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hosts"), hosts).unwrap();
        let text = format!("# ours\nnameserver 127.0.0.1\n{config}\n");
        std::fs::write(dir.path().join("resolv.conf"), text).unwrap();
        Self { dir, port, asked }
    }

    fn resolver(&self) -> Resolver {
        Resolver {
            hosts: self.dir.path().join("hosts"),
            config: self.dir.path().join("resolv.conf"),
            port: self.port,
        }
    }

    async fn ips(&self, host: &str) -> Result<Vec<String>, String> {
        let found = self.resolver().lookup(&format!("{host}:7443")).await?;
        Ok(found.iter().map(|a| a.ip().to_string()).collect())
    }

    /// Names that were asked for since the last call, each once.
    fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.dedup();
        asked
    }
}

fn name_in(question: &[u8]) -> String {
    let (mut labels, mut rest) = (Vec::new(), &question[12..]);
    while rest[0] != 0 {
        let (label, behind) = rest[1..].split_at(rest[0].into());
        labels.push(String::from_utf8_lossy(label).into_owned());
        rest = behind;
    }
    labels.join(".")
}

/// A record whose name is the question's, or one that lies at another offset.
fn record(name: u16, kind: u16, content: &[u8]) -> Vec<u8> {
    let mut record = (0xc000 | name).to_be_bytes().to_vec();
    record.extend(kind.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 60]);
    record.extend((content.len() as u16).to_be_bytes());
    record.extend(content);
    record
}

fn message(question: &[u8], flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
    answer[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    answer.extend(records.concat());
    answer
}

fn answers(
    question: &[u8],
    told: &HashMap<&'static str, Told>,
    tcp: bool,
    asked: &Mutex<Vec<String>>,
) -> Vec<Vec<u8>> {
    let name = name_in(question);
    let kind = u16::from(question[question.len() - 3]);
    asked.lock().unwrap().push(name.clone());
    let (a, aaaa) = (kind == 1, kind == 28);
    let records = match told.get(name.as_str()) {
        None => return vec![message(question, 3, &[])],
        Some(Told::Fails) => return vec![message(question, 2, &[])],
        Some(Told::Both(six, _)) if aaaa => vec![record(12, kind, &six.octets())],
        Some(Told::Both(_, four)) => vec![record(12, kind, &four.octets())],
        Some(Told::Alias(other, four)) => {
            let other: Vec<u8> = other
                .split('.')
                .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
                .chain([0])
                .collect();
            // The alias' name lies in the content of the first record.
            let at = question.len() as u16 + 12;
            let mut records = vec![record(12, 5, &other)];
            records.extend(a.then(|| record(at, 1, &four.octets())));
            records
        }
        Some(Told::Many(_)) if !tcp => return vec![message(question, 0x0200, &[])],
        Some(Told::Many(count)) if a => {
            let one = |n| record(12, 1, &[10, 0, 0, n]);
            (1..=*count).map(one).collect()
        }
        Some(Told::AfterForgery(four)) if a => {
            let mut forged = message(question, 0, &[record(12, 1, &[6, 6, 6, 6])]);
            forged[0] ^= 1;
            let right = message(question, 0, &[record(12, 1, &four.octets())]);
            return vec![forged, b"?".to_vec(), right];
        }
        Some(_) => Vec::new(),
    };
    vec![message(question, 0, &records)]
}

/// Guards an agent whose vault is written down without DNS, and mistakes in the address.
#[tokio::test]
async fn addresses_and_hosts_need_no_server() {
    let hosts = "10.1.1.1\tVault vault.example # the old one: 10.9.9.9 vault\n\
        # 10.8.8.8 vault\nnonsense vault\n10.1.1.2 vault\n";
    let server = Server::start(&[], "", hosts).await;
    assert_eq!(server.ips("vault").await.unwrap(), ["10.1.1.1", "10.1.1.2"]);
    assert_eq!(server.ips("VAULT.example.").await.unwrap(), ["10.1.1.1"]);
    assert_eq!(server.ips("192.0.2.7").await.unwrap(), ["192.0.2.7"]);
    assert_eq!(server.ips("[::1]").await.unwrap(), ["::1"]);
    assert_eq!(server.ips("localhost").await.unwrap(), ["127.0.0.1"]);
    assert!(server.asked().is_empty());
    for (wrong, said) in [
        ("vault", "no port"),
        ("vault:port", "'port' is not a port"),
        (":7443", "names no host"),
        ("fe80::1:7443", "[ADDRESS]:PORT"),
        ("[::1:7443", "not closed"),
    ] {
        let error = server.resolver().lookup(wrong).await.unwrap_err();
        assert!(error.contains(said), "{wrong}: {error}");
    }
}

/// Guards short names, which most servers' vaults have, and full ones against a detour.
#[tokio::test]
async fn the_search_list_is_tried_in_the_order_of_the_manual() {
    let four = Ipv4Addr::new(10, 0, 0, 1);
    let told = [
        ("vault.b.example", Told::Alias("v7.b.example", four)),
        ("vault.other.example", Told::Alias("v7.b.example", four)),
    ];
    let config = "search a.example b.example\noptions ndots:1 timeout:1 unknown";
    let server = Server::start(&told, config, "").await;
    assert_eq!(server.ips("vault").await.unwrap(), ["10.0.0.1"]);
    assert_eq!(server.asked(), ["vault.a.example", "vault.b.example"]);
    server.ips("vault.other.example").await.unwrap();
    assert_eq!(server.asked(), ["vault.other.example"]);
    let error = server.ips("nowhere.").await.unwrap_err();
    assert!(error.contains("'nowhere.'"), "{error}");
    assert_eq!(server.asked(), ["nowhere"]);
}

/// Guards both kinds of addresses, and answers that do not fit into a datagram.
#[tokio::test]
async fn all_addresses_are_found_and_those_with_a_route_come_first() {
    let (six, four) = (Ipv6Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 9));
    // Addresses of documentation have no route, or the default one.
    let far = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let told = [
        ("both.example", Told::Both(six, four)),
        ("far.example", Told::Both(far, four)),
        ("many.example", Told::Many(200)),
    ];
    let server = Server::start(&told, "", "").await;
    let found = server.ips("both.example").await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    let found = server.ips("far.example").await.unwrap();
    let expected = match has_route(&SocketAddr::new(far.into(), 53)) {
        true => ["2001:db8::1", "127.0.0.9"],
        false => ["127.0.0.9", "2001:db8::1"],
    };
    assert_eq!(found, expected);
    assert_eq!(server.ips("many.example").await.unwrap().len(), 200);
}

/// Guards against whoever answers first, and says which server failed when none answers.
#[tokio::test]
async fn forged_answers_are_passed_over_and_failures_are_told() {
    let told = [
        (
            "vault.example",
            Told::AfterForgery(Ipv4Addr::new(10, 0, 0, 5)),
        ),
        ("broken.example", Told::Fails),
    ];
    let server = Server::start(&told, "nameserver 127.0.0.2", "").await;
    assert_eq!(server.ips("vault.example").await.unwrap(), ["10.0.0.5"]);
    let error = server.ips("broken.example").await.unwrap_err();
    // The second one listens nowhere, which the kernel says at once.
    assert!(error.contains("name server 127.0.0.2"), "{error}");
    let long = format!("{}.example", "x".repeat(64));
    let error = server.ips(&long).await.unwrap_err();
    assert!(error.contains("no host name"), "{error}");
}

/// Guards the defaults, the limits and the last word of the file.
#[test]
fn the_file_is_read_as_the_manual_says() {
    let config = Config::parse(
        "nameserver 10.0.0.1\nnameserver ::1\nnameserver x\n;nameserver 10.0.0.9\n\
         nameserver fe80::1%7\nnameserver 10.0.0.4\ndomain a\nsearch b c\n\
         options timeout:99 attempts:0 ndots:x rotate\n",
        53,
    );
    let servers: Vec<_> = config.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.1:53", "[::1]:53", "[fe80::1%7]:53"]);
    assert_eq!(config.candidates("x"), ["x.b", "x.c", "x"]);
    assert_eq!((config.timeout.as_secs(), config.attempts), (30, 1));
    assert!(config.rotate);
    let none = Config::parse("", 53);
    assert_eq!(none.servers, [SocketAddr::from(([127, 0, 0, 1], 53))]);
    assert_eq!(none.candidates("x"), ["x"]);
}

proptest! {
    /// Guards against answers made to break the reader: names that refer to themselves, lengths
    /// beyond the end. What is read of a damaged answer to our question is an address or nothing.
    #[test]
    fn any_bytes_are_an_answer_or_none(
        change in prop::collection::vec((0usize..200, any::<u8>()), 0..6),
        cut in 0usize..200,
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let asked = question(7, "vault.example", Kind::A).unwrap();
        let records = [record(12, 5, b"\x01a\xc0\x12"), record(43, 1, &[10, 0, 0, 1])];
        let mut answer = message(&asked, 0, &records);
        for (at, byte) in change {
            if let Some(place) = answer.get_mut(at) {
                *place = byte;
            }
        }
        let cut = cut.min(answer.len());
        for bytes in [&answer[..], &answer[..cut], &noise] {
            if let Some(Reply::Addresses(found)) = reply(bytes, &asked, Kind::A) {
                prop_assert!(found.len() <= 2);
            }
        }
    }
}
