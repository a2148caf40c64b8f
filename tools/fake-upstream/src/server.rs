//! The listener, and what every request means.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::clock::now_ns;
use crate::dialect::Dialect;
use crate::plan::Plan;
use crate::record::{How, Key, Recorder, RequestRecord};
use crate::rules::{Rules, read_rules};
use crate::script::{Refusal, Step};
use crate::{Options, http1, http2, models};

/// Plans that are kept because the next request may want the same, and the size of one.
const PLANS_MAX: usize = 64;
const PLAN_SIZE_MAX: usize = 1 << 20;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait after the system gave no connection, and how often a port is tried again.
const PAUSE: Duration = Duration::from_millis(10);
const BINDS_MAX: u32 = 200;
/// Headers that carry a key.
const KEYS: [&str; 5] =
    ["authorization", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization"];

/// What the listener does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Accept,
    Refuse,
    Stop,
}

type PlanKey = (Dialect, String, Step);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) mode: watch::Sender<Mode>,
    rules: Mutex<Rules>,
    plans: Mutex<HashMap<PlanKey, Arc<Plan>>>,
}

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) connection: u64,
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// A request in the log until it has ended; dropped before, it ended because the server stopped or
/// the connection's task was.
pub(crate) struct Record {
    recorder: Arc<Recorder>,
    id: u64,
    end: (u16, How),
}

impl Record {
    pub(crate) fn ended(mut self, status: u16, how: How) {
        self.end = (status, how);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.recorder.answered(self.id, self.end.0, self.end.1);
    }
}

/// What a request is answered with.
pub(crate) struct Answer {
    pub(crate) plan: Arc<Plan>,
    /// `None` for questions about the server itself.
    record: Option<Record>,
}

impl Answer {
    pub(crate) fn ended(self, how: How) {
        if let Some(record) = self.record {
            record.ended(self.plan.status, how);
        }
    }
}

/// A connection in the log until it has ended.
struct Connection {
    recorder: Arc<Recorder>,
    id: u64,
    how: How,
}

impl Connection {
    fn ended(mut self, how: How) {
        self.how = how;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.recorder.closed(self.id, self.how);
    }
}

/// Serves until it is told to stop.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
) {
    let address = listener.local_addr();
    let mut mode = shared.mode.subscribe();
    let mut listener = Some(listener);
    // Bound: until it is told to stop.
    loop {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Stop => return,
            Mode::Refuse => {
                listener = None;
                // The sender is in `shared`, so it is there.
                let _ = mode.changed().await;
                continue;
            }
            Mode::Accept => {}
        }
        let bound = match (listener.take(), &address) {
            (Some(bound), _) => Some(bound),
            (None, Ok(address)) => bind_again(*address).await,
            (None, Err(_)) => None,
        };
        let Some(accepting) = bound.and_then(|bound| {
            bound.set_nonblocking(true).ok()?;
            tokio::net::TcpListener::from_std(bound).ok()
        }) else {
            eprintln!("fake-upstream: the port cannot be had again; nobody is accepted any more");
            return;
        };
        // Bound: one round for each connection.
        while !mode.has_changed().unwrap_or(true) {
            tokio::select! {
                accepted = accepting.accept() => match accepted {
                    Ok((stream, _)) => open(&shared, stream, tls.as_ref()),
                    Err(_) => sleep(PAUSE).await,
                },
                _ = mode.changed() => break,
            }
        }
        // `changed` marks the mode as seen; the next round reads it all the same.
        if *mode.borrow() == Mode::Accept {
            listener = accepting.into_std().ok();
        }
    }
}

async fn bind_again(address: std::net::SocketAddr) -> Option<TcpListener> {
    for _ in 0..BINDS_MAX {
        if let Ok(listener) = TcpListener::bind(address) {
            return Some(listener);
        }
        sleep(PAUSE).await;
    }
    None
}

fn open(shared: &Arc<Shared>, stream: TcpStream, tls: Option<&Arc<ServerConfig>>) {
    let recorder = Arc::clone(&shared.recorder);
    let connection = Connection { id: recorder.opened(), recorder, how: How::Stopped };
    let (shared, tls) = (Arc::clone(shared), tls.map(Arc::clone));
    tokio::spawn(async move {
        let how = speak(shared, connection.id, stream, tls).await;
        connection.ended(how);
    });
}

async fn speak(
    shared: Arc<Shared>,
    connection: u64,
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
) -> How {
    // Every event is a write of its own, so that chunks come when they are sent.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return http1::serve(shared, connection, stream).await;
    };
    match timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            http2::serve(shared, connection, stream).await
        }
        Ok(Ok(stream)) => http1::serve(shared, connection, stream).await,
        _ => How::Refused,
    }
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            recorder: Arc::default(),
            mode: watch::Sender::new(Mode::Accept),
            rules: Mutex::default(),
            plans: Mutex::default(),
        }
    }

    pub(crate) fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts nobody for so long.
    pub(crate) fn refuse_for(self: &Arc<Self>, time: Duration) {
        self.mode.send_replace(Mode::Refuse);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            sleep(time).await;
            shared.mode.send_if_modified(|mode| {
                let is_refusing = *mode == Mode::Refuse;
                if is_refusing {
                    *mode = Mode::Accept;
                }
                is_refusing
            });
        });
    }

    /// Puts a request into the log.
    pub(crate) fn record(&self, request: &Request) -> Record {
        let without_keys = |(name, value): &(String, String)| {
            let is_key = KEYS.contains(&name.as_str());
            (name.clone(), if is_key { String::new() } else { value.clone() })
        };
        let id = self.recorder.asked(RequestRecord {
            id: 0,
            connection: request.connection,
            at_ns: now_ns(),
            method: request.method.clone(),
            target: request.target.clone(),
            headers: request.headers.iter().map(without_keys).collect(),
            key: self.key(request),
            body: String::from_utf8_lossy(&request.body).into_owned(),
            status: 0,
            ended: None,
        });
        Record { recorder: Arc::clone(&self.recorder), id, end: (0, How::Stopped) }
    }

    /// The key that a proxy wants is in its own header; elsewhere nobody sends that.
    fn key(&self, request: &Request) -> Key {
        if let (Some(proxy), Some(value)) =
            (&self.options.proxy, request.header("proxy-authorization"))
        {
            let wanted = proxy.credentials.as_ref().map(|credentials| {
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials))
            });
            return if wanted.as_deref() == Some(value) { Key::Right } else { Key::Wrong };
        }
        let brought = KEYS.iter().take(4).find_map(|name| request.header(name));
        let Some(brought) = brought else { return Key::Missing };
        if brought.starts_with("AWS4-HMAC-SHA256 ") {
            return Key::Signed;
        }
        let brought = brought.strip_prefix("Bearer ").unwrap_or(brought);
        if self.options.key.as_deref() == Some(brought) { Key::Right } else { Key::Wrong }
    }

    /// What a request is answered with.
    pub(crate) fn answer(&self, request: Request) -> Answer {
        if let Some(about) = request.path().strip_prefix("/_fake/") {
            return Answer { plan: Arc::new(self.about(about, &request)), record: None };
        }
        let record = self.record(&request);
        let is_refused =
            self.options.key.is_some() && matches!(self.key(&request), Key::Wrong | Key::Missing);
        let plan = match Dialect::of_path(request.path()) {
            Some((dialect, model)) if request.method == "POST" => {
                self.plan(dialect, model, &request, is_refused)
            }
            _ if request.method == "GET" && !is_refused => {
                let is_anthropic = request.header("anthropic-version").is_some();
                match models::list(request.path(), is_anthropic) {
                    Some(list) => Arc::new(page(200, &list)),
                    None => Arc::new(page(404, &json!({"error": {"message": "no such path"}}))),
                }
            }
            _ if is_refused => Arc::new(page(401, &json!({"error": {"message": "wrong key"}}))),
            _ => Arc::new(page(404, &json!({"error": {"message": "no such path"}}))),
        };
        Answer { plan, record: Some(record) }
    }

    fn plan(
        &self,
        dialect: Dialect,
        model: Option<String>,
        request: &Request,
        is_refused: bool,
    ) -> Arc<Plan> {
        let refused = |refusal| {
            let step = Step { refusal: Some(refusal), ..Step::default() };
            Arc::new(Plan::new(dialect, "", &step, SystemTime::now()))
        };
        if is_refused {
            return refused(Refusal::BadKey);
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return refused(Refusal::Status(400));
        };
        let model = model.or_else(|| Some(body["model"].as_str()?.to_owned())).unwrap_or_default();
        let step = match self.rules().step(&self.options.usual, request.path(), &model) {
            Ok(step) => step,
            Err(error) => {
                eprintln!("fake-upstream: {error}, in the model's name {model:?}");
                return refused(Refusal::Status(404));
            }
        };
        if step.hints.iter().any(crate::Hint::is_dated) {
            return Arc::new(Plan::new(dialect, &model, &step, SystemTime::now()));
        }
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (dialect, model, step);
        if let Some(plan) = plans.get(&key) {
            return Arc::clone(plan);
        }
        let plan = Arc::new(Plan::new(dialect, &key.1, &key.2, SystemTime::now()));
        if plan.size() <= PLAN_SIZE_MAX {
            if plans.len() == PLANS_MAX {
                plans.clear();
            }
            plans.insert(key, Arc::clone(&plan));
        }
        plan
    }

    /// Questions about the server itself, which the log leaves out.
    fn about(&self, what: &str, request: &Request) -> Plan {
        match (request.method.as_str(), what) {
            ("GET", "log") => match serde_json::to_value(&*self.recorder.log()) {
                Ok(log) => page(200, &log),
                Err(error) => page(500, &json!({"error": error.to_string()})),
            },
            ("GET", "counts") => {
                let log = self.recorder.log();
                page(
                    200,
                    &json!({
                        "connections": log.connections_count, "connections_open": log.connections_open,
                        "requests": log.requests_count, "requests_open": log.requests_open,
                        "now_ns": now_ns(),
                    }),
                )
            }
            ("POST", "rules") => {
                let text = String::from_utf8_lossy(&request.body);
                match read_rules(&text, &self.options.usual) {
                    Ok(rules) => {
                        self.rules().set(rules);
                        page(200, &json!({}))
                    }
                    Err(error) => page(400, &json!({"error": error})),
                }
            }
            _ => page(404, &json!({"error": "log, counts (GET) and rules (POST)"})),
        }
    }
}

fn page(status: u16, value: &Value) -> Plan {
    Plan::page(status, "application/json", value.to_string())
}
