//! HTTP/1.1: what is sent, what is read, and what becomes of the connection.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future::or;
use http::Request;

use super::server::{Server, read_request, response, serve};
use super::{
    Options, ask, client, endpoint, get, options, read, run, sleep, task, until_connections,
};
use crate::dialect::Class;
use crate::http::Client;
use crate::sync::{Ordering, TallyU64};

#[test]
fn a_request_says_what_it_has_to_and_the_next_one_uses_the_same_connection() {
    let (asked, arrived) = mpsc::channel();
    let asked = Mutex::new(asked);
    let server = Server::start(move |mut stream, _| {
        while let Some(request) = read_request(&mut stream)? {
            asked.lock().unwrap().send(request).unwrap();
            stream.write_all(&response("200 OK", "hello"))?;
        }
        Ok(())
    });
    run(async move {
        let client = client();
        let endpoint = endpoint(&format!("{}/v1/", server.url()));
        let post = Request::post("/chat?a=b").header("x-key", "k").body(Bytes::from("question"));
        let answer = ask(&client, &endpoint, post.unwrap()).await.unwrap();
        assert_eq!(answer, (200, b"hello".to_vec()));
        let request = arrived.recv().unwrap();
        assert_eq!(request.line, "POST /v1/chat?a=b HTTP/1.1");
        assert_eq!(request.header("host"), server.address.to_string());
        assert_eq!(request.header("x-key"), "k");
        assert_eq!(request.header("content-length"), "8");
        assert!(request.header("user-agent").starts_with("annulus/"));
        assert_eq!(request.body, b"question");

        let own = Request::get("/models").header("user-agent", "own").body(Bytes::new());
        ask(&client, &endpoint, own.unwrap()).await.unwrap();
        let request = arrived.recv().unwrap();
        assert_eq!(request.line, "GET /v1/models HTTP/1.1");
        assert_eq!(request.header("user-agent"), "own");
        assert_eq!((server.accepted(), client.connections()), (1, 1));
    });
}

/// A body of known length is over with its last byte: nobody has to ask once more.
#[test]
fn the_last_byte_of_a_known_length_gives_the_connection_back() {
    let server = Server::start(|mut stream, _| serve(&mut stream, |_| response("200 OK", "all")));
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for _ in 0..3 {
            let mut response = client.send(&endpoint, get("/")).await.unwrap();
            assert_eq!(response.chunk().await.unwrap().unwrap(), "all");
            ask(&client, &endpoint, get("/")).await.unwrap();
        }
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn a_response_may_be_split_anywhere_and_may_have_trailers() {
    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n\
        5\r\nhello\r\n1;ext=1\r\n \r\n6\r\nworld!\r\n0\r\nX-Trailer: t\r\n\r\n";
    let next_split = TallyU64::new(0);
    let server = Server::start(move |mut stream, _| {
        while read_request(&mut stream)?.is_some() {
            let split = next_split.fetch_add(1, Ordering::Relaxed) % WHOLE.len() as u64;
            stream.write_all(&WHOLE[..usize::try_from(split).unwrap()])?;
            thread::sleep(Duration::from_millis(1));
            stream.write_all(&WHOLE[usize::try_from(split).unwrap()..])?;
        }
        Ok(())
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for split in 0..WHOLE.len() {
            let mut response = client.send(&endpoint, get("/")).await.unwrap();
            assert_eq!(response.headers["x-a"], "b");
            assert_eq!(read(&mut response).await.unwrap(), b"hello world!", "{split}");
            assert_eq!(response.chunk().await.unwrap(), None);
        }
        assert_eq!(server.accepted(), 1, "the connection was kept");
    });
}

#[test]
fn a_response_that_is_dropped_unread_closes_its_connection_at_once() {
    let (closed, seen) = mpsc::channel();
    let server = Server::start(move |mut stream, _| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")?;
        let ended = stream.read(&mut [0]);
        closed.send((Instant::now(), ended.unwrap_or(0))).unwrap();
        Ok(())
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        let mut took = Vec::new();
        for _ in 0..20 {
            let mut response = client.send(&endpoint, get("/")).await.unwrap();
            assert_eq!(response.chunk().await.unwrap().unwrap(), "abc");
            let dropped = Instant::now();
            drop(response);
            until_connections(&client, 0).await;
            let (seen_at, count) = seen.recv_timeout(Duration::from_secs(5)).unwrap();
            assert_eq!(count, 0, "the end and no more bytes");
            took.push(seen_at.saturating_duration_since(dropped));
        }
        took.sort();
        println!("the server saw the end after {:?} (median), {:?} (worst)", took[10], took[19]);
        assert!(took[10] < Duration::from_millis(500), "{took:?}");
    });
}

#[test]
fn a_kept_connection_that_turns_out_to_be_dead_is_replaced_once() {
    // Every connection answers one request and closes when it gets the second.
    let server = Server::start(|mut stream, _| {
        read_request(&mut stream)?;
        stream.write_all(&response("200 OK", "first"))?;
        read_request(&mut stream)?;
        Ok(())
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for number in 1..=5 {
            let post = Request::post("/").body(Bytes::from("question")).unwrap();
            let answer = ask(&client, &endpoint, post).await.unwrap();
            assert_eq!(answer, (200, b"first".to_vec()));
            assert_eq!(server.accepted(), number);
        }
        drop(server);
    });
}

#[test]
fn a_new_connection_that_breaks_is_a_failure_and_so_is_a_head_that_breaks_off() {
    let server = Server::start(|mut stream, number| {
        if number > 0 {
            read_request(&mut stream)?;
            stream.write_all(&response("200 OK", ""))?;
            read_request(&mut stream)?;
            stream.write_all(b"HTTP/1.1 200 O")?;
            return Ok(());
        }
        read_request(&mut stream)?;
        Ok(())
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        let failure = ask(&client, &endpoint, get("/")).await.unwrap_err();
        assert_eq!(failure.class, Class::Network);
        assert!(failure.detail.contains("closed too early"), "{failure}");
        assert_eq!(server.accepted(), 1);

        ask(&client, &endpoint, get("/")).await.unwrap();
        let failure = ask(&client, &endpoint, get("/")).await.unwrap_err();
        assert_eq!(failure.class, Class::Network);
        assert_eq!(server.accepted(), 2, "something had come, so it was not asked again");
        until_connections(&client, 0).await;
    });
}

#[test]
fn a_body_that_breaks_off_is_a_failure_however_often_it_is_asked() {
    let server = Server::start(|mut stream, number| {
        read_request(&mut stream)?;
        let head: &[u8] = match number {
            0 => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
            _ => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        };
        stream.write_all(head)
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for _ in 0..2 {
            let mut response = client.send(&endpoint, get("/")).await.unwrap();
            assert_eq!(response.chunk().await.unwrap().unwrap(), "12345");
            let failure = response.chunk().await.unwrap_err();
            assert_eq!(failure.class, Class::Network);
            assert!(failure.detail.contains("closed too early"), "{failure}");
            assert_eq!(response.chunk().await.unwrap_err(), failure);
            until_connections(&client, 0).await;
        }
    });
}

#[test]
fn redirects_and_errors_are_responses_and_informational_heads_are_skipped() {
    let server = Server::start(|mut stream, _| {
        serve(&mut stream, |asked| match asked.line.split(' ').nth(1).unwrap() {
            "/moved" => b"HTTP/1.1 307 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "/none" => b"HTTP/1.1 204 None\r\n\r\n".to_vec(),
            "/hints" => [b"HTTP/1.1 103 Hints\r\n\r\n".to_vec(), response("200 OK", "x")].concat(),
            _ => response("529 Overloaded", "later"),
        })
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for (path, status, body) in
            [("/moved", 307, ""), ("/none", 204, ""), ("/hints", 200, "x"), ("/", 529, "later")]
        {
            let answer = ask(&client, &endpoint, get(path)).await.unwrap();
            assert_eq!(answer, (status, body.as_bytes().to_vec()), "{path}");
        }
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn a_head_beyond_the_limits_is_a_failure() {
    let server = Server::start(|mut stream, number| {
        read_request(&mut stream)?;
        let line = match number {
            0 => format!("X-Long: {}\r\n", "x".repeat(1000)).repeat(100),
            1 => "X-Many: x\r\n".repeat(1000),
            _ => "this is not HTTP\r\n".into(),
        };
        let start = if number < 2 { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" } else { "" };
        stream.write_all(format!("{start}{line}\r\n").as_bytes())?;
        stream.read(&mut [0]).map(drop)
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for reason in ["too large", "too large", "invalid HTTP"] {
            let failure = ask(&client, &endpoint, get("/")).await.unwrap_err();
            assert_eq!(failure.class, Class::Network, "{failure}");
            assert!(failure.detail.contains(reason), "{failure}");
            until_connections(&client, 0).await;
        }
    });
}

#[test]
fn a_kept_connection_that_its_server_closes_is_closed() {
    let server = Server::start(|mut stream, _| {
        read_request(&mut stream)?;
        stream.write_all(&response("200 OK", "x"))?;
        thread::sleep(Duration::from_millis(50));
        Ok(())
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        ask(&client, &endpoint, get("/")).await.unwrap();
        // Long before its own time is over.
        until_connections(&client, 0).await;
    });
}

#[test]
fn a_server_that_closes_after_its_answer_is_connected_to_anew() {
    let server = Server::start(|mut stream, number| {
        read_request(&mut stream)?;
        let answer: &[u8] = match number % 2 {
            0 => b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            _ => b"HTTP/1.0 200 OK\r\n\r\nok",
        };
        stream.write_all(answer)
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for number in 1..=4 {
            let answer = ask(&client, &endpoint, get("/")).await.unwrap();
            assert_eq!(answer, (200, b"ok".to_vec()));
            assert_eq!(server.accepted(), number);
        }
        until_connections(&client, 0).await;
    });
}

#[test]
fn requests_beyond_the_limit_wait_in_their_order_and_may_go_away() {
    let (busy, most) = (TallyU64::new(0), Arc::new(TallyU64::new(0)));
    let seen = Arc::clone(&most);
    let server = Server::start(move |mut stream, _| {
        while read_request(&mut stream)?.is_some() {
            seen.fetch_max(busy.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(5));
            busy.fetch_sub(1, Ordering::Relaxed);
            stream.write_all(&response("200 OK", "x"))?;
        }
        Ok(())
    });
    run(async move {
        for connections_max in [1, 2] {
            let before = server.accepted();
            let options = Options { connections_per_host_max: connections_max, ..options() };
            let client = Arc::new(Client::new(options).unwrap());
            let endpoint = endpoint(&server.url());
            let order = Arc::new(Mutex::new(Vec::new()));
            let start = |number: usize| {
                let (client, endpoint, order) = (client.clone(), endpoint.clone(), order.clone());
                task(async move {
                    ask(&client, &endpoint, get("/")).await.unwrap();
                    order.lock().unwrap().push(number);
                })
            };
            let mut tasks: Vec<_> = (0..20).map(|number| Some(start(number))).collect();
            sleep(Duration::from_millis(1)).await;
            for leaves in [17, 18, 19] {
                tasks[leaves] = None;
            }
            for task in tasks.into_iter().flatten() {
                task.await;
            }
            let order = order.lock().unwrap();
            assert_eq!(order.len(), 17);
            // Two connections may overtake each other.
            assert!(connections_max > 1 || order.is_sorted(), "{order:?}");
            let count = connections_max as u64;
            assert_eq!(most.load(Ordering::Relaxed), count);
            assert_eq!(server.accepted() - before, count);
        }
    });
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let server = Server::start(|mut stream, _| serve(&mut stream, |_| response("200 OK", "x")));
    run(async move {
        let idle = Duration::from_secs(1);
        let options = Options { connection_idle: idle, ..options() };
        let (client, endpoint) = (Client::new(options).unwrap(), endpoint(&server.url()));
        for _ in 0..4 {
            ask(&client, &endpoint, get("/")).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
        let begun = Instant::now();
        ask(&client, &endpoint, get("/")).await.unwrap();
        assert_eq!((client.connections(), server.accepted()), (1, 1));
        until_connections(&client, 0).await;
        assert!(begun.elapsed() >= idle, "{:?}", begun.elapsed());
        ask(&client, &endpoint, get("/")).await.unwrap();
        assert_eq!(server.accepted(), 2);
    });
}

#[test]
fn a_client_that_is_dropped_keeps_no_connection() {
    let server = Server::start(|mut stream, _| serve(&mut stream, |_| response("200 OK", "x")));
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        let sockets = client.connector.sockets.clone();
        ask(&client, &endpoint, get("/")).await.unwrap();
        assert_eq!(sockets.count(), 1);
        drop(client);
        let begun = Instant::now();
        while sockets.count() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(5), "still open");
            sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn what_nobody_asks_for_is_not_read_and_stays_with_the_server() {
    let written = Arc::new(TallyU64::new(0));
    let count = Arc::clone(&written);
    let server = Server::start(move |mut stream, _| {
        read_request(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        // Ends when the client closes.
        loop {
            count.fetch_add(stream.write(&[b'x'; 64 << 10])? as u64, Ordering::Relaxed);
        }
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        let mut response = client.send(&endpoint, get("/")).await.unwrap();
        response.chunk().await.unwrap().unwrap();
        // Until the sockets' buffers are full.
        let mut before = u64::MAX;
        while before != written.load(Ordering::Relaxed) {
            before = written.load(Ordering::Relaxed);
            sleep(Duration::from_millis(300)).await;
        }
        // `chunk` may be dropped and called again.
        let mut got = 0;
        while got as u64 <= before {
            let hasty = async {
                sleep(Duration::from_micros(100)).await;
                None
            };
            let chunk = or(async { Some(response.chunk().await.unwrap().unwrap()) }, hasty).await;
            got += chunk.map_or(0, |chunk| chunk.len());
        }
        // Only whole writes count, and the one that was stuck may not be over yet.
        let begun = Instant::now();
        while written.load(Ordering::Relaxed) <= before {
            assert!(begun.elapsed() < Duration::from_secs(20), "the server goes on");
            sleep(Duration::from_millis(1)).await;
        }
        drop(response);
        until_connections(&client, 0).await;
    });
}

/// The server reads no more of the request, whether it answers or not.
#[test]
fn a_connection_whose_request_was_not_read_is_not_kept() {
    let server = Server::start(|mut stream, number| {
        stream.read_exact(&mut [0; 100])?;
        if number == 0 {
            stream.write_all(&response("413 Too Large", "no"))?;
        }
        thread::sleep(Duration::from_secs(20));
        Ok(())
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        let post = || Request::post("/").body(Bytes::from(vec![b'x'; 32 << 20])).unwrap();
        let answer = ask(&client, &endpoint, post()).await.unwrap();
        assert_eq!(answer, (413, b"no".to_vec()));
        until_connections(&client, 0).await;

        let whole = async { ask(&client, &endpoint, post()).await.map(drop).unwrap() };
        or(whole, sleep(Duration::from_millis(300))).await;
        assert_eq!(server.accepted(), 2);
        until_connections(&client, 0).await;
    });
}

/// Values that are slices of what was read lie as far apart as on the wire; in memory of their own they
/// cannot, because two pieces of memory are at least 16 bytes apart.
#[test]
fn headers_are_all_there_and_keep_nothing_else_of_what_was_read() {
    const WHOLE: &[u8] =
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-B: 2\r\nX-B: 3\r\nX-C:\r\nContent-Length: 0\r\n\r\n";
    const LINE: usize = b"X-A: 1\r\n".len();
    let server = Server::start(|mut stream, _| serve(&mut stream, |_| WHOLE.to_vec()));
    run(async move {
        let response = client().send(&endpoint(&server.url()), get("/")).await.unwrap();
        let headers = &response.headers;
        assert_eq!((headers["x-a"].as_bytes(), headers["x-c"].as_bytes()), (&b"1"[..], &b""[..]));
        let twice: Vec<_> = headers.get_all("x-b").iter().collect();
        assert_eq!(twice, ["2", "3"]);
        assert_eq!(headers.len(), 5);
        let place = |value: &http::HeaderValue| value.as_bytes().as_ptr().addr();
        let apart = [
            place(&headers["x-a"]).abs_diff(place(twice[0])),
            place(twice[0]).abs_diff(place(twice[1])),
        ];
        assert!(apart.iter().all(|apart| *apart != LINE), "{apart:?}");
    });
}
