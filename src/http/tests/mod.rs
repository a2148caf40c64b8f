//! The client against servers on threads, over loopback.

mod bodies;
mod cancel;
mod connect;
mod hostile;
mod http1;
mod http2;
mod measure;
mod server;
mod streams;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future::or;
use http::Request;

use super::{Client, Endpoint, Options, ProxySource, Response};
use crate::dialect::Failure;
use crate::executor::{self, sleep, testing::task};

/// Runs a test on an executor as the daemon's.
fn run<T: 'static>(test: impl Future<Output = T> + 'static) -> T {
    executor::run(in_time(test)).unwrap()
}

async fn in_time<T>(test: impl Future<Output = T>) -> T {
    let too_late = async {
        sleep(Duration::from_secs(100)).await;
        panic!("the test hangs");
    };
    or(test, too_late).await
}

fn options() -> Options {
    Options { proxy: ProxySource::Direct, ..Options::default() }
}

fn client() -> Arc<Client> {
    Arc::new(Client::new(options()).unwrap())
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint::parse(url, true).unwrap()
}

fn get(path: &str) -> Request<Bytes> {
    Request::get(path).body(Bytes::new()).unwrap()
}

async fn read(response: &mut Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        assert!(!chunk.is_empty());
        body.extend(chunk);
    }
    Ok(body)
}

/// Sends and reads to the end.
async fn ask(
    client: &Client,
    endpoint: &Endpoint,
    request: Request<Bytes>,
) -> Result<(u16, Vec<u8>), Failure> {
    let mut response = client.send(endpoint, request).await?;
    Ok((response.status, read(&mut response).await?))
}

/// Waits until the client has this many connections.
#[track_caller]
fn until_connections(client: &Client, count: u64) -> impl Future<Output = ()> {
    let begun = Instant::now();
    async move {
        while client.connections() != count {
            let open = client.connections();
            assert!(begun.elapsed() < Duration::from_secs(5), "{open} connections, not {count}");
            sleep(Duration::from_millis(1)).await;
        }
    }
}
