//! The server as a program of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use fake_upstream::{
    Options, ProxyOptions, Step, TlsOptions, Upstream, raise_descriptor_limit, read_rules,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// An AI provider for tests: streams in six dialects, with scripted faults
///
/// The first line of output is its URL. It stops at SIGTERM, SIGINT or the end of its time.
///
/// A request is answered by the first rule of --script that fits, else by its model's name when that
/// begins with "fault-" or "fake-" (fault-429-retry-after-ms-50-then-ok, fake-chunks-100_rate-50), else as
/// the options say. GET /_fake/counts and /_fake/log tell what happened, POST /_fake/rules
/// replaces the script.
#[derive(Debug, Parser)]
#[command(name = "fake-upstream", version)]
struct Arguments {
    /// Where to listen; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Encrypt, with a certificate of an authority made at the start
    #[arg(long, conflicts_with = "proxy")]
    tls: bool,

    /// Where to write the authority's certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca_file: Option<PathBuf>,

    /// A name or address for the certificate, beside those of the loopback; may be repeated
    #[arg(long = "name", value_name = "NAME", requires = "tls")]
    names: Vec<String>,

    /// Offer HTTP/2 beside HTTP/1.1
    #[arg(long, requires = "tls")]
    http2: bool,

    /// Be a proxy (CONNECT, and requests for a whole http:// URL) to hosts of the loopback
    #[arg(long)]
    proxy: bool,

    /// What the proxy wants to hear
    #[arg(long, value_name = "USER:PASSWORD", requires = "proxy")]
    proxy_credentials: Option<String>,

    /// Where the proxy connects everything, whatever host is named
    #[arg(long, value_name = "ADDRESS", requires = "proxy")]
    proxy_to: Option<SocketAddr>,

    /// The key that requests must bring
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// Rules: {"rules": [{"model": "m", "path": "/v1", "steps": ["429", "ok"], "pieces": [{"text": "hello"}]}]}
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,

    /// The usual answer in the words of a script, before the options below
    #[arg(long, value_name = "PARTS", default_value = "ok")]
    answer: String,

    /// Text pieces of the usual answer
    #[arg(long, value_name = "COUNT")]
    chunks: Option<u32>,

    /// Pieces a second; 0 is as fast as it goes
    #[arg(long, value_name = "COUNT")]
    rate: Option<u32>,

    /// Bytes of each piece, at least
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(..=1_048_576))]
    size: Option<u32>,

    /// Begin each piece with the moment it is sent (CLOCK_MONOTONIC, ns)
    #[arg(long)]
    stamp: bool,

    /// Where to write what happened, as JSON, when it stops
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    for_secs: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-upstream: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    raise_descriptor_limit()?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut usual = Step::default().with(&arguments.answer)?;
    usual.chunks = arguments.chunks.unwrap_or(usual.chunks);
    usual.rate = arguments.rate.unwrap_or(usual.rate);
    usual.size = arguments.size.unwrap_or(usual.size);
    usual.stamp |= arguments.stamp;
    let rules = match &arguments.script {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            read_rules(&text, &usual).map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => Vec::new(),
    };
    let tls = arguments.tls.then(|| {
        let mut tls = TlsOptions { http2: arguments.http2, ..TlsOptions::default() };
        tls.names.extend_from_slice(&arguments.names);
        tls
    });
    let proxy = arguments.proxy.then(|| ProxyOptions {
        credentials: arguments.proxy_credentials.clone(),
        target: arguments.proxy_to,
    });
    let key = arguments.key.clone();
    let upstream = Upstream::start(Options { listen: arguments.listen, tls, proxy, key, usual })?;
    upstream.set_rules(rules);
    if let (Some(path), Some(pem)) = (&arguments.ca_file, upstream.ca_pem()) {
        std::fs::write(path, pem)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    println!("{}", upstream.url());
    let end = Instant::now() + Duration::from_secs(arguments.for_secs);
    while Instant::now() < end && signals.pending().next().is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some(path) = &arguments.log_file {
        let log = upstream.log(serde_json::to_vec)?;
        std::fs::write(path, log)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}
