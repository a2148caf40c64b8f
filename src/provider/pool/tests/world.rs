//! A pool of endpoints with scripts, and keys that change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_lite::StreamExt;
use secrecy::SecretString;

use super::super::seams::{KeyReader, Local, Time, Transport};
use super::super::*;
use super::lines::Lines;
pub(in super::super) use super::lines::{ROW, ROW_OF_ALL};
pub(in super::super) use super::script::Unreachable;
pub(super) use super::script::{Act, FakeEndpoint, Reply};
use super::virtual_time::VirtualTime;
use crate::error::IpcError;
use crate::metrics::{ProviderMetrics, ProviderOutcome};
use crate::protocol::{Message, MessageRole, StreamEvent};

pub(in super::super) const SECOND: Duration = Duration::from_secs(1);

/// A key that a test can replace.
pub(in super::super) struct FakeKey {
    value: Mutex<Result<String, String>>,
    reads: Mutex<u32>,
}

impl FakeKey {
    pub(in super::super) fn new(value: &str) -> Self {
        Self { value: Mutex::new(Ok(value.to_owned())), reads: Mutex::default() }
    }

    pub(super) fn set(&self, value: Result<&str, &str>) {
        *self.value.lock().unwrap() = value.map(str::to_owned).map_err(str::to_owned);
    }

    pub(super) fn read_count(&self) -> u32 {
        *self.reads.lock().unwrap()
    }
}

impl KeyReader for FakeKey {
    fn read(&self) -> Local<'_, Result<SecretString, String>> {
        *self.reads.lock().unwrap() += 1;
        let value = self.value.lock().unwrap().clone().map(SecretString::from);
        Box::pin(async move { value })
    }
}

/// A pool in the making.
pub(super) struct World {
    pub(super) time: VirtualTime,
    pub(super) settings: PoolSettings,
}

pub(super) type Outcome = (String, Result<(), IpcError>);

impl World {
    pub(super) fn new() -> Self {
        Self {
            time: VirtualTime::default(),
            settings: PoolSettings {
                providers: BTreeMap::new(),
                models: BTreeMap::new(),
                default_provider: None,
                upstream: UpstreamSettings::default(),
                cache: None,
            },
        }
    }

    /// Adds a provider with one endpoint for each script, and no key.
    pub(super) fn provider<const N: usize>(
        &mut self,
        name: &str,
        scripts: [Vec<Reply>; N],
    ) -> [Arc<FakeEndpoint>; N] {
        self.provider_with(name, scripts, |_| {})
    }

    pub(super) fn provider_with<const N: usize>(
        &mut self,
        name: &str,
        scripts: [Vec<Reply>; N],
        change: impl FnOnce(&mut ProviderSettings),
    ) -> [Arc<FakeEndpoint>; N] {
        let endpoints = scripts.map(|script| FakeEndpoint::new(&self.time, script));
        let mut settings = ProviderSettings::new(&ROW_OF_ALL);
        for endpoint in &endpoints {
            let transport: Arc<dyn Transport> = Arc::clone(endpoint) as _;
            settings.endpoints.push(EndpointSettings { transport, weight: 1, signer: None });
        }
        change(&mut settings);
        self.settings.providers.insert(name.into(), MemberSettings::Remote(Box::new(settings)));
        endpoints
    }

    /// Routes the model `m` over these providers.
    pub(super) fn route(&mut self, providers: &[&str]) {
        let route = providers.iter().map(|name| format!("{name}/model-of-{name}")).collect();
        self.settings.models.insert("m".into(), route);
    }

    pub(super) fn pool(self) -> Running {
        let time: Arc<dyn Time> = Arc::new(self.time.clone());
        let pool = ProviderPool::new(self.settings, time, Arc::new(Lines)).unwrap();
        Running { time: self.time, pool }
    }
}

/// A pool at work.
pub(super) struct Running {
    pub(super) time: VirtualTime,
    pub(super) pool: ProviderPool,
}

impl Running {
    /// Asks for `m`, and gives all events, texts as they are and the others by their names.
    pub(super) fn ask(&self) -> Outcome {
        self.ask_with(request("m"))
    }

    pub(super) fn ask_with(&self, request: AIRequest) -> Outcome {
        self.time.run(collect(self.pool.start(request)))
    }

    pub(super) fn metrics(&self, provider: &str) -> Arc<ProviderMetrics> {
        let Some(Entry::Remote(member)) = self.pool.shared.members.get(provider) else {
            panic!("{provider} is no remote provider")
        };
        Arc::clone(&member.metrics)
    }

    pub(super) fn count(&self, provider: &str, outcome: ProviderOutcome) -> u64 {
        self.metrics(provider).outcome(outcome).value()
    }

    /// Panics unless everything that requests hold was given back.
    pub(super) fn assert_idle(&self) {
        for member in self.pool.remotes() {
            let state = member.lock();
            let endpoints = state.endpoints.iter().map(|endpoint| endpoint.in_flight);
            let keys = state.keys.iter().map(|key| key.in_flight);
            assert_eq!(endpoints.chain(keys).sum::<u32>(), 0, "{} is in use", member.name);
            drop(state);
            assert_eq!(member.metrics.usage.provider_in_flight.value(), 0, "{}", member.name);
        }
    }
}

pub(super) fn request(model: &str) -> AIRequest {
    AIRequest::new(model, vec![Message::new(MessageRole::User, "hello")])
}

/// The texts of a stream, then how it ended.
pub(super) async fn collect(mut events: EventStream) -> Outcome {
    let mut seen = String::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(StreamEvent::Text { text } | StreamEvent::Reasoning { text }) => {
                seen.push_str(&text);
            }
            Ok(StreamEvent::ToolCall { tool_call }) => {
                seen.push_str(&format!("[{}]", tool_call.id));
            }
            Ok(StreamEvent::End { .. }) => {
                assert!(events.next().await.is_none(), "something comes after the end");
                return (seen, Ok(()));
            }
            Err(error) => {
                assert!(events.next().await.is_none(), "something comes after the error");
                return (seen, Err(error));
            }
        }
    }
    panic!("the stream ended without its end: {seen}");
}

/// The text of a whole answer.
#[track_caller]
pub(super) fn whole((text, outcome): Outcome) -> String {
    outcome.unwrap_or_else(|error| panic!("{text:?}, then {error}"));
    text
}
