//! Checks against real servers on loopback.
#![allow(clippy::unwrap_used)]

use super::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::interruption::Signal;
use crate::plan::Plan;

/// The only check of a plan with these lines.
fn check(lines: &str) -> Check {
    let text = format!("name = \"a\"\nserver = \"a\"\n[[check]]\n{lines}\n");
    let plan = Plan::parse(&text, "plan", Path::new(".")).unwrap();
    plan.servers[0].checks[0].clone()
}

fn target() -> Target {
    Target {
        namespace: None,
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        console: "/nonexistent/console".into(),
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

fn run(check: &Check, target: &Target, deadline: Instant) -> Outcome {
    wait_for(
        check,
        target,
        deadline,
        &Interruption::default(),
        &mut || None,
        &mut |_| {},
    )
}

/// A server that gives its n-th caller `answer(n)` and then closes; returns its port.
fn server(answer: impl Fn(u32) -> String + Send + 'static) -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let calls = Arc::new(AtomicU32::new(0));
    let counter = calls.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let call = counter.fetch_add(1, Ordering::SeqCst);
            let text = answer(call);
            let http = text.starts_with("HTTP");
            if http {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    request.push(byte[0]);
                }
                let host = String::from_utf8_lossy(&request).to_lowercase();
                let host = host
                    .lines()
                    .find_map(|l| l.strip_prefix("host: "))
                    .unwrap_or("");
                let _ = stream.write_all(text.replace("HOST", host).as_bytes());
            } else {
                let _ = stream.write_all(text.as_bytes());
            }
        }
    });
    (port, calls)
}

fn page(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}")
}

/// A port that nothing listens on.
fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn http_is_tried_until_status_and_body_hold() {
    let (port, _) = server(|call| match call {
        0 => page("503 Service Unavailable", "starting"),
        1 => page("200 OK", "somebody else"),
        _ => page("200 OK", "<h1>this is web1</h1>"),
    });
    let check = check(&format!(
        "kind = \"http\"\nport = {port}\nbody_contains = \"web1\""
    ));
    let mut seen = Vec::new();
    let outcome = wait_for(
        &check,
        &target(),
        far(),
        &Interruption::default(),
        &mut || None,
        &mut |evidence| seen.push(evidence.summary.clone()),
    );
    assert_eq!(outcome.verdict, Verdict::Held);
    assert_eq!(outcome.attempts, 3);
    assert!(seen[0].contains("503"), "{seen:?}");
    assert!(seen[1].contains("does not contain"), "{seen:?}");
    assert_eq!(outcome.evidence.http_status, Some(200));
    assert!(outcome.evidence.received.unwrap().contains("web1"));
    assert!(outcome.first_sign.is_some());
}

#[test]
fn http_sends_the_given_host_and_follows_no_redirect() {
    let (port, calls) = server(|_| {
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nConnection: close\r\n\r\nHOST"
            .into()
    });
    let lines = format!(
        "kind = \"http\"\nport = {port}\nstatus = 302\nhost = \"shop.example\"\nbody_contains = \"shop.example\""
    );
    assert_eq!(run(&check(&lines), &target(), far()).verdict, Verdict::Held);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn an_http_answer_that_is_none_is_evidence_too() {
    let (port, _) = server(|_| "SSH-2.0-OpenSSH\r\n".into());
    let check = check(&format!("kind = \"http\"\nport = {port}"));
    let outcome = run(
        &check,
        &target(),
        Instant::now() + Duration::from_millis(900),
    );
    assert_eq!(outcome.verdict, Verdict::TimedOut);
    assert!(
        outcome.evidence.summary.contains("GET http://127.0.0.1"),
        "{:?}",
        outcome.evidence
    );
}

#[test]
fn a_tcp_port_is_open_or_the_refusal_is_told() {
    let (port, _) = server(|_| "SSH-2.0-OpenSSH_9\r\n".into());
    let open = check(&format!("kind = \"tcp\"\nport = {port}"));
    assert_eq!(run(&open, &target(), far()).verdict, Verdict::Held);
    let greeting = check(&format!(
        "kind = \"tcp\"\nport = {port}\nexpect = \"SSH-2.0\""
    ));
    let outcome = run(&greeting, &target(), far());
    assert_eq!(outcome.verdict, Verdict::Held);
    assert!(outcome.evidence.received.unwrap().starts_with("SSH-2.0"));
    let other = check(&format!(
        "kind = \"tcp\"\nport = {port}\nexpect = \"220 mail\""
    ));
    let outcome = run(
        &other,
        &target(),
        Instant::now() + Duration::from_millis(700),
    );
    assert_eq!(outcome.verdict, Verdict::TimedOut);
    assert!(
        outcome
            .evidence
            .summary
            .contains("does not say \"220 mail\"")
    );

    let closed = check(&format!("kind = \"tcp\"\nport = {}", closed_port()));
    let outcome = run(
        &closed,
        &target(),
        Instant::now() + Duration::from_millis(700),
    );
    assert_eq!(outcome.verdict, Verdict::TimedOut);
    assert!(
        outcome.evidence.summary.contains("refused"),
        "{:?}",
        outcome.evidence
    );
    assert!(outcome.first_sign.is_some(), "a refusal is a sign of life");
}

#[test]
fn a_second_address_is_asked_where_the_first_refuses() {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = check(&format!("kind = \"tcp\"\nport = {port}"));
    let mut target = target();
    target.addresses = vec![
        Ipv4Addr::new(127, 0, 0, 3).into(),
        Ipv4Addr::new(127, 0, 0, 2).into(),
    ];
    let outcome = run(&check, &target, far());
    assert_eq!(outcome.verdict, Verdict::Held);
    assert_eq!(outcome.evidence.address, Some(format!("127.0.0.2:{port}")));
}

#[test]
fn a_failed_check_brings_the_consoles_last_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut target = target();
    target.console = dir.path().join("console");
    std::fs::write(&target.console, "booting\r\nKernel panic - not syncing\r\n").unwrap();
    let check = check("kind = \"console\"\npattern = \"login:\"");
    let outcome = run(&check, &target, Instant::now());
    assert_eq!(outcome.verdict, Verdict::TimedOut);
    assert_eq!(
        outcome.evidence.console_tail,
        ["booting", "Kernel panic - not syncing"]
    );
}

#[test]
fn a_machine_that_ended_fails_the_check_at_once() {
    let check = check(&format!("kind = \"tcp\"\nport = {}", closed_port()));
    let mut ended = || Some("it crashed".to_owned());
    let outcome = wait_for(
        &check,
        &target(),
        far(),
        &Interruption::default(),
        &mut ended,
        &mut |_| {},
    );
    assert_eq!(outcome.verdict, Verdict::MachineEnded("it crashed".into()));
    assert_eq!(outcome.attempts, 1);
}

/// Guards that an attempt which the deadline cuts short does not hide the answer before it.
#[test]
fn the_last_answer_stays_in_the_evidence() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let _ = first.read(&mut request);
        let _ = first.write_all(page("500 Internal Server Error", "broken").as_bytes());
        drop(first);
        // Later callers are accepted by the kernel and never answered.
        std::thread::park();
        drop(listener);
    });
    let check = check(&format!("kind = \"http\"\nport = {port}"));
    let deadline = Instant::now() + Duration::from_secs(3);
    let outcome = run(&check, &target(), deadline);
    assert_eq!(outcome.verdict, Verdict::TimedOut);
    assert_eq!(outcome.evidence.http_status, Some(500), "{outcome:?}");
    assert!(
        outcome.evidence.summary.contains("before that"),
        "{outcome:?}"
    );
}

/// Guards that an interruption is obeyed though an attempt hangs in a connection.
#[test]
fn an_interruption_ends_a_hanging_attempt() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = check(&format!("kind = \"http\"\nport = {port}"));
    let interruption = Interruption::default();
    let raiser = interruption.clone();
    // Accepts, never answers: the caller is inside of its attempt when the signal comes.
    std::thread::spawn(move || {
        let held = listener.accept();
        raiser.raise(Signal::Interrupt);
        std::thread::park();
        drop(held);
    });
    let outcome = wait_for(
        &check,
        &target(),
        far(),
        &interruption,
        &mut || None,
        &mut |_| {},
    );
    assert_eq!(outcome.verdict, Verdict::Interrupted);
}
