//! HTTP/1.1 where a body begins before its request is over, or ends before its bytes do.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::Request;

use super::server::{Server, read_request, response, serve};
use super::{ask, client, endpoint, get, read, run, until_connections};

/// Bytes of which any that is lost, moved or twice there shows.
fn pattern(size: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_be_bytes).take(size).collect()
}

/// It would be taken for the next answer.
#[test]
fn what_comes_behind_a_body_is_nobodys() {
    let server = Server::start(|mut stream, _| {
        serve(&mut stream, |asked| {
            let answer = match asked.line.split(' ').nth(1).unwrap() {
                "/none" => b"HTTP/1.1 204 None\r\n\r\n".to_vec(),
                "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                    5\r\nright\r\n0\r\n\r\n"
                    .to_vec(),
                _ => response("200 OK", "right"),
            };
            [answer, response("200 OK", "wrong")].concat()
        })
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        let mut accepted = 0;
        for _ in 0..2 {
            for (path, status, body) in
                [("/none", 204, ""), ("/chunked", 200, "right"), ("/", 200, "right")]
            {
                let answer = ask(&client, &endpoint, get(path)).await.unwrap();
                assert_eq!(answer, (status, body.as_bytes().to_vec()), "{path}");
                accepted += 1;
                assert_eq!(server.accepted(), accepted, "{path}");
                until_connections(&client, 0).await;
            }
        }
    });
}

#[test]
fn a_server_that_speaks_without_having_been_asked_is_left() {
    let server = Server::start(|mut stream, _| {
        read_request(&mut stream)?;
        stream.write_all(&response("200 OK", "right"))?;
        thread::sleep(Duration::from_millis(50));
        stream.write_all(&response("408 Timeout", "wrong"))?;
        // Until the client closes.
        stream.read(&mut [0]).map(drop)
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for accepted in 1..=2 {
            let answer = ask(&client, &endpoint, get("/")).await.unwrap();
            assert_eq!(answer, (200, b"right".to_vec()));
            assert_eq!(server.accepted(), accepted);
            until_connections(&client, 0).await;
        }
    });
}

/// After that it is no longer HTTP.
#[test]
fn a_connection_whose_protocol_was_switched_is_not_kept() {
    let server = Server::start(|mut stream, _| {
        serve(&mut stream, |_| {
            b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n".to_vec()
        })
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        let answer = ask(&client, &endpoint, get("/")).await.unwrap();
        assert_eq!(answer, (101, Vec::new()));
        until_connections(&client, 0).await;
    });
}

/// hyper reads more at once the longer a head is, so more of the body may come with it than is read
/// of a body at once.
#[test]
fn a_body_that_comes_with_its_head_is_whole() {
    const BODY_SIZE: usize = 100_000;
    let server = Server::start(|mut stream, _| {
        serve(&mut stream, |asked| {
            let fill = asked.line.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
            let head = format!(
                "HTTP/1.1 200 OK\r\nX-Fill: {}\r\nContent-Length: {BODY_SIZE}\r\n\r\n",
                "x".repeat(fill)
            );
            [head.into_bytes(), pattern(BODY_SIZE)].concat()
        })
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for fill in (0..40_000).step_by(2_000) {
            let answer = ask(&client, &endpoint, get(&format!("/{fill}"))).await.unwrap();
            assert_eq!(answer.0, 200);
            assert!(answer.1 == pattern(BODY_SIZE), "{fill} bytes in the head");
        }
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn a_long_request_arrives_whole_however_late_it_is_read() {
    let server = Server::start(|mut stream, _| {
        // Until the sockets' buffers are full.
        thread::sleep(Duration::from_millis(100));
        serve(&mut stream, |asked| {
            let is_whole = asked.body == pattern(asked.body.len());
            response("200 OK", &format!("{} {is_whole}", asked.body.len()))
        })
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for size in [16 << 20, 100_000, 0] {
            let post = Request::post("/").body(Bytes::from(pattern(size))).unwrap();
            let answer = ask(&client, &endpoint, post).await.unwrap();
            assert_eq!(answer, (200, format!("{size} true").into_bytes()));
        }
        assert_eq!(server.accepted(), 1);
    });
}

/// A provider that streams may begin to answer before it has read the whole question.
#[test]
fn the_rest_of_a_request_is_sent_while_its_answer_is_read() {
    const SIZE: usize = 16 << 20;
    let server = Server::start(|mut stream, _| {
        // Ends when the client closes.
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n";
            stream.write_all(answer)?;
            let mut body = vec![0; SIZE];
            stream.read_exact(&mut body)?;
            let said = if body == pattern(SIZE) { "whole" } else { "other" };
            stream.write_all(format!("5\r\n{said}\r\n0\r\n\r\n").as_bytes())?;
        }
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for _ in 0..2 {
            let post = Request::post("/").body(Bytes::from(pattern(SIZE))).unwrap();
            let mut response = client.send(&endpoint, post).await.unwrap();
            assert_eq!(response.chunk().await.unwrap().unwrap(), "early");
            assert_eq!(read(&mut response).await.unwrap(), b"whole");
        }
        assert_eq!(server.accepted(), 1, "the connection was kept");
    });
}
