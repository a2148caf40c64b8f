//! A request that its client gives up, by a cancel or by going away, is over at the upstream at once,
//! in whatever phase it is; and nothing of it stays behind.
//!
//! Times are the upstream's own: from the cancel to the moment at which it saw the end of the
//! connection, on the clock that both share. They are printed and not judged, because a test's machine
//! has other work; that the end comes at all is.
#![cfg(feature = "cli")]

mod common;
#[path = "common/providers.rs"]
mod providers;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use annulus::MessageType;
use annulus::client::{Client, ConnectOptions, Connection, Received, WaitPolicy};
use annulus::protocol::{Codec as _, JsonCodec};
use annulus::wire::Status;
use fake_upstream::{Ended, How, Phase, Upstream, now_ns};

use common::{Daemon, PATIENCE, role, role_socket, wait_for};
use providers::{ask, client, daemon, metric, provider, step, stream, text_of, upstream, wait_at};

/// How a client gives a request up.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    Cancel,
    HangUp,
}

fn parked(daemon: &Daemon) -> Connection {
    Connection::connect(&daemon.options().wait(WaitPolicy::PARK)).unwrap()
}

fn send(connection: &mut Connection, message_type: MessageType, model: &str) -> u64 {
    let mut payload = Vec::new();
    JsonCodec.encode_request(&ask(model), &mut payload).unwrap();
    let mut id = None;
    // The ring may be full for a moment.
    wait_for("space in the ring", || {
        id = connection.try_send(message_type, &payload).unwrap();
        connection.notify();
        id.is_some()
    });
    id.unwrap()
}

/// The next frame.
fn receive(connection: &mut Connection) -> Received {
    let deadline = Instant::now() + PATIENCE;
    assert!(connection.wait(Some(deadline)).unwrap(), "no frame within {PATIENCE:?}");
    connection.try_receive(&mut Vec::new()).unwrap().unwrap()
}

/// Receives up to the last frame of a request.
fn last(connection: &mut Connection) -> Received {
    loop {
        let received = receive(connection);
        if received.last {
            return received;
        }
    }
}

/// Median, 99th percentile and maximum.
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    let (p50, p99, max) = (at(50), at(99), at(100));
    println!("{what:<52} {:>5} times: p50 {p50:?}, p99 {p99:?}, max {max:?}", times.len());
}

/// A daemon whose descriptors can be counted whoever runs the tests.
fn visible(config: &str) -> Daemon {
    daemon(&format!("upstream.core_dumps = true\n{config}"))
}

fn openai(upstream: &Upstream) -> String {
    provider("p", "openai", &upstream.url(), "idle_timeout_secs = 0\n")
}

/// Waits until nothing of all that was asked is left in the daemon.
fn assert_nothing_is_left(daemon: &Daemon, before: (usize, usize)) {
    daemon.wait_until_it_holds(before);
    let client = client(daemon);
    let page = || String::from_utf8(client.call(MessageType::METRICS, b"").unwrap()).unwrap();
    wait_for("the leases to come home", || {
        let page = page();
        let mut leases = page.lines().filter(|line| line.starts_with("annulus_leases_in_use{"));
        leases.all(|line| line.ends_with(" 0"))
    });
    assert!(page().contains("annulus_leases_in_use{"), "the row has another name now");
}

/// Gives `count` requests up in one phase, one after the other, and prints how soon each was over.
fn measure(
    count: usize,
    name: &str,
    message_type: MessageType,
    model: &str,
    phase: Phase,
    by: By,
) -> Vec<Duration> {
    let upstream = upstream();
    let daemon = visible(&format!("upstream.retries_max = 0\n{}", openai(&upstream)));
    let mut connection = parked(&daemon);
    // Whatever comes up with the first request is there before anything is counted.
    let id = send(&mut connection, MessageType::COMPLETE, "p/fake-chunks-1_close-first");
    assert_eq!(last(&mut connection).request_id, id);
    let mut spare = parked(&daemon);
    spare.call(MessageType::ECHO, b"", &mut Vec::new()).unwrap();
    let before = daemon.held();
    drop(spare);

    let (mut times, mut in_phase) = (Vec::new(), 0);
    for _ in 0..count {
        let asked = upstream.log(|log| log.requests_count);
        let id = send(&mut connection, message_type, model);
        wait_at(&upstream, "the request", |log| log.requests_count > asked);
        if phase == Phase::Output && message_type == MessageType::STREAM {
            assert!(!receive(&mut connection).last);
        } else {
            // What the upstream sends beside is on its way or there.
            thread::sleep(Duration::from_millis(2));
        }
        let cancelled = now_ns();
        match by {
            By::Cancel => {
                connection.cancel(id).unwrap();
                assert_eq!(last(&mut connection).status, Status::Cancelled, "{name}");
            }
            By::HangUp => connection = parked_after(connection, &daemon),
        }
        wait_at(&upstream, "the end", |log| log.connections_open == 0);
        let Ended { at_ns, how } =
            upstream.log(|log| log.requests.back().unwrap().ended).expect("it has ended");
        assert!(matches!(how, How::LeftByClient(_)), "{name}: {how:?}");
        in_phase += usize::from(how == How::LeftByClient(phase));
        times.push(Duration::from_nanos(at_ns.saturating_sub(cancelled)));
    }
    // On a busy machine the upstream is late now and then.
    assert!(in_phase * 2 > count, "{name}: only {in_phase} of {count} came in this phase");
    report(&format!("{name}, {by:?}"), times.clone());
    let outcome = "annulus_provider_requests_total{provider=\"p\",outcome=\"cancelled\"}";
    let client = client(&daemon);
    wait_for("the outcomes", || metric(&client, outcome) == count as u64);
    drop(client);
    assert_nothing_is_left(&daemon, before);
    times
}

/// Hangs up, then connects anew.
fn parked_after(connection: Connection, daemon: &Daemon) -> Connection {
    drop(connection);
    parked(daemon)
}

const COUNT: usize = 15;

fn phases(count: usize) {
    const STREAM: MessageType = MessageType::STREAM;
    const WHOLE: MessageType = MessageType::COMPLETE;
    const PHASES: [(&str, MessageType, &str, Phase); 7] = [
        ("no headers yet", STREAM, "p/fake-stall-headers", Phase::Headers),
        ("no output yet", STREAM, "p/fake-stall-first", Phase::Preamble),
        ("keep-alives only", STREAM, "p/fake-comments-1", Phase::Preamble),
        ("mid-stream, silent", STREAM, "p/fake-stall", Phase::Output),
        ("mid-stream, flowing", STREAM, "p/fake-chunks-2000_rate-1000", Phase::Output),
        ("a whole answer, no headers yet", WHOLE, "p/fake-stall-headers", Phase::Headers),
        ("a whole answer, half of it there", WHOLE, "p/fake-stall", Phase::Output),
    ];
    let mut times = Vec::new();
    for by in [By::Cancel, By::HangUp] {
        for (name, message_type, model, phase) in PHASES {
            times.extend(measure(count, name, message_type, model, phase, by));
        }
    }
    report("all of these", times);
}

#[test]
fn the_upstream_connection_is_closed_in_every_phase() {
    phases(COUNT);
}

#[test]
#[ignore = "a measurement, to be run on a quiet machine"]
fn measure_how_soon_the_upstream_connection_is_closed() {
    phases(100);
}

#[test]
fn a_handshake_that_does_not_come_about_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let daemon = visible(&provider("p", "openai", &url, "connect_timeout_ms = 600000\n"));
    let mut times = Vec::new();
    for _ in 0..20 {
        let mut connection = parked(&daemon);
        let id = send(&mut connection, MessageType::STREAM, "p/m");
        let (mut accepted, _) = silent.accept().unwrap();
        accepted.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hello = [0; 4096];
        assert!(accepted.read(&mut hello).unwrap() > 0);
        let cancelled = Instant::now();
        connection.cancel(id).unwrap();
        // Bounded by the size of a client's hello.
        while matches!(accepted.read(&mut hello), Ok(size) if size > 0) {}
        times.push(cancelled.elapsed());
        assert_eq!(last(&mut connection).status, Status::Cancelled);
    }
    report("within the handshake of TLS, Cancel", times);
}

/// Connections to this port of the loopback that the kernel is still opening (`SYN_SENT`, proc(5)).
fn being_opened(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let place = format!("0100007F:{port:04X} 02 ");
    table.lines().filter(|line| line.contains(&place)).count()
}

/// A port on which connections are neither accepted nor refused: its queue is full.
fn blocked_port() -> (OwnedFd, Vec<std::net::TcpStream>, u16) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&listener, &std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    listen(&listener, 0).unwrap();
    let address = std::net::SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
    let wait = Duration::from_millis(300);
    let queued = (0..4).map_while(|_| std::net::TcpStream::connect_timeout(&address, wait).ok());
    let queued = queued.collect();
    (listener, queued, address.port())
}

#[test]
fn a_connection_that_does_not_come_about_is_given_up() {
    let (_listener, _queued, port) = blocked_port();
    let url = format!("http://127.0.0.1:{port}");
    let daemon = visible(&provider("p", "openai", &url, "connect_timeout_ms = 600000\n"));
    let mut connection = parked(&daemon);
    connection.call(MessageType::HEARTBEAT, b"", &mut Vec::new()).unwrap();
    let before = daemon.held();
    let mut times = Vec::new();
    for _ in 0..20 {
        let id = send(&mut connection, MessageType::STREAM, "p/m");
        wait_for("the attempt", || being_opened(port) == 1);
        let cancelled = Instant::now();
        connection.cancel(id).unwrap();
        assert_eq!(last(&mut connection).status, Status::Cancelled);
        wait_for("its end", || being_opened(port) == 0);
        times.push(cancelled.elapsed());
    }
    report("while connecting (looked at each ms), Cancel", times);
    assert_nothing_is_left(&daemon, before);
}

#[test]
fn a_wait_for_the_next_try_is_given_up() {
    let upstream = upstream();
    let daemon = visible(&openai(&upstream));
    for by in [By::Cancel, By::HangUp] {
        let asked = upstream.log(|log| log.requests_count);
        let mut connection = parked(&daemon);
        // Of another model each time: the key rests longer than the test takes.
        let model =
            format!("p/fake-503_retry-after-{}-then-ok", if by == By::Cancel { 1 } else { 2 });
        let id = send(&mut connection, MessageType::STREAM, &model);
        wait_at(&upstream, "the refusal", |log| {
            log.requests_count > asked && log.requests_open == 0
        });
        thread::sleep(Duration::from_millis(20));
        match by {
            By::Cancel => {
                let cancelled = Instant::now();
                connection.cancel(id).unwrap();
                assert_eq!(last(&mut connection).status, Status::Cancelled);
                report("in the wait for the next try, Cancel", vec![cancelled.elapsed()]);
            }
            By::HangUp => drop(connection),
        }
        // Longer than the wait would have been: the next try does not come.
        thread::sleep(Duration::from_millis(2_300));
        assert_eq!(upstream.log(|log| log.requests_count), asked + 1, "{by:?}");
    }
}

#[test]
fn a_wait_for_a_connection_is_given_up_and_the_place_goes_to_the_next() {
    let upstream = upstream();
    let config = format!("upstream.connections_per_host_max = 1\n{}", openai(&upstream));
    let daemon = visible(&config);
    let mut holder = parked(&daemon);
    let held = send(&mut holder, MessageType::STREAM, "p/fake-stall");
    assert!(!receive(&mut holder).last);
    for by in [By::Cancel, By::HangUp] {
        let mut waiting = parked(&daemon);
        let id = send(&mut waiting, MessageType::STREAM, "p/fake-ok");
        thread::sleep(Duration::from_millis(20));
        match by {
            By::Cancel => {
                waiting.cancel(id).unwrap();
                assert_eq!(last(&mut waiting).status, Status::Cancelled);
            }
            By::HangUp => drop(waiting),
        }
    }
    assert_eq!(upstream.log(|log| log.requests_count), 1, "nobody else was let through");
    thread::scope(|scope| {
        let next = scope.spawn(|| stream(&client(&daemon), &ask("p/fake-chunks-3")));
        thread::sleep(Duration::from_millis(20));
        holder.cancel(held).unwrap();
        assert_eq!(last(&mut holder).status, Status::Cancelled);
        next.join().unwrap().assert_whole(&text_of(3));
    });
    assert_eq!(upstream.log(|log| log.requests_count), 2);
}

/// The client that is killed while it is streamed to.
#[test]
fn role_is_streamed_to() {
    let Some(socket) = role_socket() else { return };
    let client = Client::connect(&ConnectOptions::new().socket_path(socket)).unwrap();
    let mut events = client.stream_completion(&ask("p/fake-stall")).unwrap();
    events.next().unwrap().unwrap();
    println!("streaming");
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn a_client_that_is_killed_takes_its_upstream_connection_along() {
    let upstream = upstream();
    let daemon = visible(&openai(&upstream));
    let mut times = Vec::new();
    for _ in 0..20 {
        let mut child = role("role_is_streamed_to", &daemon.socket());
        let stdout = BufReader::new(child.stdout.as_mut().unwrap());
        assert!(stdout.lines().any(|line| line.unwrap().contains("streaming")));
        let killed = now_ns();
        child.kill().unwrap();
        wait_at(&upstream, "the end", |log| log.connections_open == 0);
        child.wait().unwrap();
        let ended = upstream.log(|log| log.requests.back().unwrap().ended).unwrap();
        assert_eq!(ended.how, How::LeftByClient(Phase::Output));
        times.push(Duration::from_nanos(ended.at_ns.saturating_sub(killed)));
    }
    report("mid-stream, kill -9", times);
}

/// Gives up `count` requests, sixteen at a time, in whatever phase each happens to be.
fn cancel_many(count: usize) {
    const AT_ONCE: usize = 16;
    const MODELS: [&str; 6] = [
        "p/fake-stall-headers",
        "p/fake-stall-first",
        "p/fake-stall",
        "p/fake-chunks-2000_rate-1000",
        "p/fake-comments-1",
        "p/fake-slow-headers-20",
    ];
    let upstream = upstream();
    let daemon = visible(&format!("upstream.retries_max = 0\n{}", openai(&upstream)));
    let mut connection = parked(&daemon);
    let warm = send(&mut connection, MessageType::COMPLETE, "p/fake-chunks-1_close-first");
    assert_eq!(last(&mut connection).request_id, warm);
    let before = daemon.held();
    let mut dice = fastrand::Rng::with_seed(7);
    let started = Instant::now();
    let mut cancelled = 0;
    while cancelled < count {
        let ids: Vec<u64> = (0..AT_ONCE)
            .map(|_| {
                let model = MODELS[dice.usize(..MODELS.len())];
                let kinds = [MessageType::STREAM, MessageType::COMPLETE];
                send(&mut connection, kinds[dice.usize(..2)], model)
            })
            .collect();
        // From before they have left the daemon to the middle of their answers.
        thread::sleep(Duration::from_micros(dice.u64(..20_000)));
        if dice.u8(..8) == 0 {
            connection = parked_after(connection, &daemon);
        } else {
            for id in &ids {
                connection.cancel(*id).unwrap();
            }
            for _ in &ids {
                assert_eq!(last(&mut connection).status, Status::Cancelled);
            }
        }
        cancelled += ids.len();
    }
    let took = started.elapsed();
    wait_at(&upstream, "the ends", |log| log.connections_open == 0 && log.requests_open == 0);
    let (connections, requests) = upstream.log(|log| (log.connections_count, log.requests_count));
    println!(
        "{cancelled} requests given up in {took:?}: {requests} had reached the upstream, on \
         {connections} connections; descriptors and regions before {before:?}, after {:?}",
        daemon.held()
    );
    assert!(requests > cancelled as u64 / 10, "most are given up before they get anywhere");
    assert_nothing_is_left(&daemon, before);
    upstream.set_rules(vec![fake_upstream::Rule {
        path: None,
        model: None,
        steps: vec![step("chunks-4")],
    }]);
    stream(&client(&daemon), &ask("p/m")).assert_whole(&text_of(4));
}

#[test]
fn a_thousand_cancels_leave_nothing_behind() {
    cancel_many(1_000);
}

#[test]
#[ignore = "ten times the one above"]
fn ten_thousand_cancels_leave_nothing_behind() {
    cancel_many(10_000);
}
