//! What a request on a kept connection costs beside a bare blocking socket's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::server::{Server, response};
use super::{ask, client, endpoint, get, run};

const ROUND_TRIPS: usize = 5_000;
const ROUNDS: usize = 5;

/// Reads what one request is, whatever it says, and answers.
fn trivial() -> Server {
    Server::start(|mut stream, _| {
        let answer = response("200 OK", "hello");
        let mut buffer = [0; 4096];
        let mut size = 0;
        loop {
            let count = stream.read(&mut buffer[size..])?;
            if count == 0 {
                return Ok(());
            }
            size += count;
            if buffer[..size].ends_with(b"\r\n\r\n") {
                stream.write_all(&answer)?;
                size = 0;
            }
        }
    })
}

fn bare(address: SocketAddr) -> f64 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    let begun = Instant::now();
    for _ in 0..ROUND_TRIPS {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: annulus/0.1.0\r\n\r\n")
            .unwrap();
        let mut size = 0;
        while !buffer[..size].ends_with(b"hello") {
            size += stream.read(&mut buffer[size..]).unwrap();
        }
    }
    begun.elapsed().as_secs_f64() / ROUND_TRIPS as f64 * 1e6
}

/// `cargo test --release http::tests::measure -- --ignored --nocapture`
#[test]
#[ignore = "a measurement; needs a quiet machine"]
fn a_round_trip_beside_a_bare_socket() {
    let server = trivial();
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let bare = bare(server.address);
        let url = server.url();
        let own = run(async move {
            let (client, endpoint) = (client(), endpoint(&url));
            ask(&client, &endpoint, get("/")).await.unwrap();
            let begun = Instant::now();
            for _ in 0..ROUND_TRIPS {
                let (status, body) = ask(&client, &endpoint, get("/")).await.unwrap();
                assert!(status == 200 && body == b"hello");
            }
            begun.elapsed().as_secs_f64() / ROUND_TRIPS as f64 * 1e6
        });
        println!("bare {bare:.1} us, client {own:.1} us, ratio {:.2}", own / bare);
        ratios.push(own / bare);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ROUNDS / 2]);
}
