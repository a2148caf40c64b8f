//! HTTP/1.1 with a provider that means no good: heads that say two things, bodies that are cut off, bytes
//! that are meant for the next answer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::executor::sleep;
use bytes::Bytes;
use futures_lite::future::or;
use http::Request;

use super::server::{Server, authority, read_request, response, serve, tls};
use super::{Options, ask, client, endpoint, get, options, run, until_connections};
use crate::dialect::{Class, Failure};
use crate::http::Client;

/// Answers each connection's first request with its number's answer, and then waits for its end.
fn answering(answers: Vec<Vec<u8>>) -> Server {
    Server::start(move |mut stream, number| {
        read_request(&mut stream)?;
        stream.write_all(&answers[usize::try_from(number).unwrap()])?;
        stream.read(&mut [0]).map(drop)
    })
}

#[test]
fn a_head_that_does_not_say_where_its_body_ends_is_a_failure() {
    let heads: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n",
        // A name that others may read as another one, or as none.
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length\x00: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\n",
        // Obsolete line folding (RFC 9112 §5.2), and line ends within a line.
        b"HTTP/1.1 200 OK\r\nX: a\r\n Content-Length: 9\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rContent-Length: 9\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\r\n",
        // An informational head has no body: what comes behind it is a head.
        b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\n",
    ];
    let server = answering(heads.iter().map(|head| [head, &b"no"[..]].concat()).collect());
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for head in heads {
            let head = head.escape_ascii();
            let failure = ask(&client, &endpoint, get("/")).await.expect_err(&head.to_string());
            assert_eq!(failure.class, Class::Network, "{head}: {failure}");
            until_connections(&client, 0).await;
        }
        assert_eq!(server.accepted(), heads.len() as u64, "none was asked again");
    });
}

/// Somebody between the server and us may see another end of the body than we do; then what comes behind
/// one is no answer.
#[test]
fn a_connection_is_kept_only_if_its_answers_end_is_beyond_doubt() {
    let answers: &[(&[u8], u16, &str, u64)] = &[
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 02\r\n\r\nok", 200, "ok", 1),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-ENCODING: \tCHUNKED \r\n\r\n2\r\nok\r\n0\r\n\r\n",
            200,
            "ok",
            1,
        ),
        (b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", 204, "", 1),
        (b"HTTP/1.1 304 Not\r\nContent-Length: 2\r\n\r\n", 304, "", 1),
        (b"HTTP/1.1 304 Not\r\nTransfer-Encoding: chunked\r\n\r\n", 304, "", 1),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, "ok", 1),
        // Chunks count (RFC 9112 §6.3), and for somebody else the length may.
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n\
                2\r\nok\r\n0\r\n\r\n",
            200,
            "ok",
            0,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 12\r\n\r\n\
                2\r\nok\r\n0\r\n\r\n",
            200,
            "ok",
            0,
        ),
        // Neither has a body, and neither may say that it has (RFC 9110 §8.6, RFC 9112 §6.1).
        (b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", 204, "", 0),
        (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", 204, "", 0),
        (
            b"HTTP/1.1 200 OK\r\nConnection: \xE9, close\r\nContent-Length: 2\r\n\r\nok",
            200,
            "ok",
            0,
        ),
    ];
    let server = answering(answers.iter().map(|(answer, ..)| answer.to_vec()).collect());
    run(async move {
        for (answer, status, body, kept) in answers {
            // A client of its own: a kept connection would be asked next.
            let (client, endpoint) = (client(), endpoint(&server.url()));
            let came = ask(&client, &endpoint, get("/")).await;
            let answer = answer.escape_ascii();
            assert_eq!(came, Ok((*status, body.as_bytes().to_vec())), "{answer}");
            if *kept == 0 {
                until_connections(&client, 0).await;
            } else {
                sleep(Duration::from_millis(5)).await;
                assert_eq!(client.connections(), 1, "{answer}");
            }
        }
    });
}

#[test]
fn the_answer_to_head_has_no_body_whatever_it_says() {
    let server = Server::start(|mut stream, _| {
        serve(&mut stream, |asked| match &asked.line {
            line if line.starts_with("GET") => response("200 OK", "right"),
            line if line.contains("chunked") => {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()
            }
            line if line.contains("body") => response("200 OK", "wrong"),
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec(),
        })
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for (path, accepted) in [("/", 1), ("/chunked", 1), ("/body", 1), ("/body", 2), ("/", 3)] {
            let head = Request::head(path).body(Bytes::new()).unwrap();
            assert_eq!(ask(&client, &endpoint, head).await, Ok((200, Vec::new())), "{path}");
            assert_eq!(server.accepted(), accepted, "{path}");
            if path == "/body" {
                until_connections(&client, 0).await;
            }
        }
        assert_eq!(ask(&client, &endpoint, get("/")).await, Ok((200, b"right".to_vec())));
        assert_eq!(server.accepted(), 3);
    });
}

/// None of them counts as an answer, so they would go on for as long as the caller waits, and a server
/// that is fast enough would have the executor to itself.
#[test]
fn informational_heads_without_an_end_are_a_failure() {
    let server = Server::start(|mut stream, number| {
        read_request(&mut stream)?;
        let heads = match number {
            0 => "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n".repeat(1000),
            _ => "\r\n".repeat(10_000),
        };
        // Ends when the client closes.
        loop {
            stream.write_all(heads.as_bytes())?;
        }
    });
    run(async move {
        let (client, endpoint) = (client(), endpoint(&server.url()));
        for _ in 0..2 {
            let asked = async { Some(ask(&client, &endpoint, get("/")).await) };
            let too_late = async {
                sleep(Duration::from_secs(10)).await;
                None
            };
            let failure = or(asked, too_late).await.expect("still waiting").unwrap_err();
            assert_eq!(failure.class, Class::Network, "{failure}");
            until_connections(&client, 0).await;
        }
    });
}

/// How a server's connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// As TLS has it: nobody else can have made it end.
    Told,
    /// Anybody between the server and us can do this.
    Cut,
    Reset,
}

const BODIES: [&[u8]; 4] = [
    b"HTTP/1.1 200 OK\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
];

/// Asks for each body over a connection that ends like that.
async fn ended(scheme: &str, server: &Server) -> Vec<Result<(u16, Vec<u8>), Failure>> {
    let options = Options { extra_ca: Some(authority()), ..options() };
    let client = Client::new(options).unwrap();
    let endpoint = endpoint(&format!("{scheme}://{}", server.address));
    let mut outcomes = Vec::new();
    for body in 0..BODIES.len() {
        outcomes.push(ask(&client, &endpoint, get(&format!("/{body}"))).await);
        until_connections(&client, 0).await;
    }
    outcomes
}

/// The body that a request asks for.
fn wanted(stream: &mut (impl Read + Write)) -> io::Result<&'static [u8]> {
    let asked = read_request(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let number = asked.line.split(['/', ' ']).nth(2).unwrap();
    Ok(BODIES[number.parse::<usize>().unwrap()])
}

fn assert_ended(outcomes: &[Result<(u16, Vec<u8>), Failure>], is_whole: [bool; 4], how: &str) {
    for ((outcome, body), is_whole) in outcomes.iter().zip(BODIES).zip(is_whole) {
        let body = body.escape_ascii();
        match outcome {
            Ok(answer) => {
                assert!(is_whole, "{how}: {body} was cut and is an answer");
                assert_eq!(*answer, (200, b"hello".to_vec()), "{how}: {body}");
            }
            Err(failure) => {
                assert!(!is_whole, "{how}: {body}: {failure}");
                assert_eq!(failure.class, Class::Network);
            }
        }
    }
}

/// A body that ends with its connection is whole if the server itself has ended it.
#[test]
fn a_tls_connection_that_is_cut_off_leaves_no_short_answer() {
    for ending in [Ending::Told, Ending::Cut] {
        let server = Server::start(move |stream, _| {
            let mut socket = stream.try_clone()?;
            let mut stream = tls(stream, b"http/1.1");
            let body = wanted(&mut stream)?;
            stream.write_all(body)?;
            if ending == Ending::Told {
                stream.conn.send_close_notify();
            }
            stream.flush()?;
            socket.shutdown(Shutdown::Write)?;
            // Until the client closes.
            socket.read_to_end(&mut Vec::new()).map(drop)
        });
        run(async move {
            let outcomes = ended("https", &server).await;
            let is_told = ending == Ending::Told;
            assert_ended(&outcomes, [is_told, is_told, false, false], &format!("{ending:?}"));
        });
    }
}

#[test]
fn a_connection_that_is_reset_leaves_no_short_answer() {
    for ending in [Ending::Told, Ending::Reset] {
        let server = Server::start(move |mut stream: TcpStream, _| {
            let body = wanted(&mut stream)?;
            stream.write_all(body)?;
            if ending == Ending::Reset {
                // Once the client has what came before: a reset takes it away.
                std::thread::sleep(Duration::from_millis(50));
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            }
            Ok(())
        });
        run(async move {
            let outcomes = ended("http", &server).await;
            let is_told = ending == Ending::Told;
            assert_ended(&outcomes, [is_told, is_told, false, false], &format!("{ending:?}"));
        });
    }
}
