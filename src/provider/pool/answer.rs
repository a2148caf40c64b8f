//! One answer: the loop of attempts up to the commit point, and the stream after it.
//!
//! The invariant to remember: **once the client has an event, nobody else is asked**. Before it, any
//! number of attempts leave no trace; after it, a failure is one error and the end.

use std::sync::Arc;
use std::time::Duration;

use futures_lite::StreamExt;

use super::Shared;
use super::attempt::Attempt;
use super::request::Written;
use super::search::{self, Goal, Search, Step};
use super::watch::{TimedOut, Watch};
use crate::dialect::{Encoding, Failure};
use crate::error::IpcError;
use crate::protocol::{AIRequest, StreamEvent};
use crate::provider::EventStream;
use crate::provider::cache::{CacheKey, Identity, Question, Recording};

/// Tokens that an answer is taken for when the request sets no bound.
const ANSWER_TOKENS: u64 = 1024;

/// One answer on its way.
pub(super) struct Answer {
    watch: Watch,
    /// When the request has taken too long in all.
    deadline: Option<Duration>,
    /// The client has the answer's end.
    has_ended: bool,
    course: Course,
}

struct Course {
    shared: Arc<Shared>,
    request: AIRequest,
    goals: Vec<Goal>,
    phase: Phase,
    began: Duration,
    question: Option<Question>,
    recording: Option<Recording>,
    /// Bytes of text and reasoning that the client has.
    given: usize,
}

enum Phase {
    Asking,
    Streaming {
        place: usize,
        attempt: Box<Attempt>,
    },
    Replaying {
        events: Arc<[StreamEvent]>,
        next: usize,
    },
    Local(EventStream),
    /// Told to the client at once.
    Refused(IpcError),
    Over,
}

impl Answer {
    pub(super) fn new(shared: Arc<Shared>, request: AIRequest) -> Self {
        let (goals, phase) = match shared.goals(&request.model) {
            Ok(goals) => (goals, Phase::Asking),
            Err(refused) => {
                (Vec::new(), Phase::Refused(IpcError::InvalidRequest { detail: refused.detail }))
            }
        };
        let total = goals.first().and_then(|goal| match goal {
            Goal::Remote { member, .. } => member.settings.total_timeout,
            Goal::Local(_) => None,
        });
        let began = shared.tools.time.now();
        Self {
            watch: Watch::new(Arc::clone(&shared.tools.time)),
            deadline: total.map(|total| began + total),
            has_ended: false,
            course: Course {
                question: shared.cache.as_ref().and_then(|_| Question::of(&request)),
                shared,
                request,
                goals,
                phase,
                began,
                recording: None,
                given: 0,
            },
        }
    }

    /// The next event; nothing after the end or an error. Asked once more after the end, it leaves
    /// the connection to others; that may take some milliseconds, which the client need not wait.
    pub(super) async fn next(&mut self) -> Option<Result<StreamEvent, IpcError>> {
        if self.has_ended {
            if let Phase::Streaming { mut attempt, .. } =
                std::mem::replace(&mut self.course.phase, Phase::Over)
            {
                attempt.read_rest().await;
            }
            return None;
        }
        let event = match self.watch.before(self.deadline, self.course.next()).await {
            Ok(event) => event?,
            Err(TimedOut) => Err(IpcError::Timeout),
        };
        match event {
            Ok(StreamEvent::End { .. }) => self.has_ended = true,
            Ok(_) => {}
            // Drops what is left upstream.
            Err(_) => self.course.phase = Phase::Over,
        }
        Some(event)
    }
}

impl Course {
    async fn next(&mut self) -> Option<Result<StreamEvent, IpcError>> {
        if matches!(self.phase, Phase::Asking) {
            // Boxed: it is the largest part of an answer by far, and over when the stream begins.
            match Box::pin(self.ask()).await {
                Ok(Some(first)) => return Some(Ok(self.note(first))),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        match &mut self.phase {
            Phase::Streaming { place, attempt } => {
                let place = *place;
                match attempt.next().await {
                    Ok(event) => Some(Ok(self.note(event))),
                    Err(failure) => Some(Err(self.broken_off(place, failure))),
                }
            }
            Phase::Replaying { events, next } => {
                let event = events.get(*next).cloned();
                *next += 1;
                event.map(Ok)
            }
            Phase::Local(events) => events.next().await,
            phase @ Phase::Refused(_) => match std::mem::replace(phase, Phase::Over) {
                Phase::Refused(error) => Some(Err(error)),
                _ => None,
            },
            Phase::Asking | Phase::Over => None,
        }
    }

    /// Finds somebody who answers: gives the first event of their answer, or leaves a phase that will.
    async fn ask(&mut self) -> Result<Option<StreamEvent>, IpcError> {
        if self.ask_cache() {
            return Ok(None);
        }
        let shared = Arc::clone(&self.shared);
        let upstream = &shared.upstream;
        let mut search = Search::new(
            &self.goals,
            tokens(&self.request),
            upstream.retries_max,
            self.began + upstream.retry_budget,
            shared.dice(),
        );
        let mut written: Vec<Option<Written>> = vec![None; self.goals.len()];
        // Bounded by the search.
        loop {
            let now = shared.tools.time.now();
            let (place, mut lease) = match search.step(&self.goals, now) {
                Step::Ask(place, lease) => (place, lease),
                Step::Wait(duration) => {
                    shared.tools.time.sleep(duration).await;
                    continue;
                }
                Step::Local(place) => {
                    let Goal::Local(provider) = &self.goals[place] else { continue };
                    self.phase = Phase::Local(provider.start(self.request.clone()));
                    return Ok(None);
                }
                Step::GiveUp(error) => return Err(error),
            };
            let member = Arc::clone(&lease.member);
            let pair = (lease.endpoint, lease.key);
            let secret = match member.secret(lease.key).await {
                Ok((secret, version)) => {
                    lease.key_version = version;
                    secret
                }
                Err(why) => {
                    lease.withdraw();
                    search.without_key(&self.goals, place, pair.1, &why);
                    continue;
                }
            };
            let message = self.write(place, &mut written[place]).and_then(|written| {
                let signer = member.settings.endpoints[pair.0].signer.as_deref();
                written.with_key(
                    &member.settings,
                    signer,
                    secret.as_ref(),
                    shared.tools.time.today(),
                )
            });
            let begun = match message {
                Ok(message) => {
                    Attempt::begin(&shared.tools, lease, message, secret, &self.request).await
                }
                Err(failure) => {
                    lease.withdraw();
                    Err(failure)
                }
            };
            match begun {
                Ok((first, attempt)) => {
                    self.record(place, &attempt);
                    self.phase = Phase::Streaming { place, attempt: Box::new(attempt) };
                    return Ok(Some(first));
                }
                Err(failure) => {
                    let now = shared.tools.time.now();
                    search.failed(&self.goals, place, pair, failure, now)?;
                }
            }
        }
    }

    /// Writes the request for the goal at `place`, once.
    fn write<'w>(
        &mut self,
        place: usize,
        written: &'w mut Option<Written>,
    ) -> Result<&'w Written, Failure> {
        if let Goal::Remote { member, model } = &self.goals[place] {
            // What the answer calls itself, unless the provider says better.
            self.request.model.clone_from(model);
            if written.is_none() {
                let settings = &member.settings;
                let encoding = Encoding {
                    row: settings.row,
                    model,
                    max_tokens_default: settings.max_tokens_default,
                    drop_temperature: settings.no_temperature.contains(model),
                    context_size: settings.context_size,
                    api_version: settings.api_version.as_deref(),
                    keepsakes: &self.shared.tools.keepsakes,
                };
                let call = self.shared.tools.wire.encode(&encoding, &self.request)?;
                *written = Some(Written::new(call)?);
            }
        }
        written.as_ref().ok_or_else(|| Failure::bad_stream("a local provider is not written to"))
    }

    /// Looks for the answer of the first goal in the cache.
    fn ask_cache(&mut self) -> bool {
        let (Some(cache), Some(question)) = (&self.shared.cache, &self.question) else {
            return false;
        };
        let Some(Goal::Remote { member, model }) = self.goals.first() else { return false };
        let now = self.shared.tools.time.now();
        // An answer to any of the provider's own keys, as it is now.
        for (key, key_version) in member.known_keys() {
            let identity = Identity { provider: &member.name, model, key, key_version };
            let key = CacheKey::new(&identity, question);
            if let Some(events) = key.and_then(|key| cache.find(&key, now)) {
                member.metrics.usage.provider_cache_hits_total.increment();
                self.phase = Phase::Replaying { events, next: 0 };
                return true;
            }
        }
        member.metrics.usage.provider_cache_misses_total.increment();
        false
    }

    /// Begins to write the answer down for the cache, if it is for that.
    fn record(&mut self, place: usize, attempt: &Attempt) {
        let (Some(cache), Some(question)) = (&self.shared.cache, &self.question) else { return };
        let Goal::Remote { member, model } = &self.goals[place] else { return };
        let lease = attempt.lease();
        let identity = Identity {
            provider: &member.name,
            model,
            key: lease.key,
            key_version: lease.key_version,
        };
        self.recording = CacheKey::new(&identity, question).map(|key| cache.record(key));
    }

    /// Notes an event that the client is about to get.
    fn note(&mut self, event: StreamEvent) -> StreamEvent {
        if let StreamEvent::Text { text } | StreamEvent::Reasoning { text } = &event {
            self.given += text.len();
        }
        if let Some(recording) = &mut self.recording {
            recording.note(&event);
        }
        if let StreamEvent::End { .. } = event
            && let (Some(cache), Some(recording)) = (&self.shared.cache, self.recording.take())
        {
            cache.store(recording, self.shared.tools.time.now());
        }
        event
    }

    /// A failure after the commit point.
    fn broken_off(&self, place: usize, mut failure: Failure) -> IpcError {
        let detail = format!(
            "the answer broke off after {} bytes of text{}{}",
            self.given,
            if failure.detail.is_empty() { "" } else { ": " },
            failure.detail
        );
        failure = Failure { detail, ..failure };
        match search::error(&self.goals[place], &failure) {
            // Not the client's request: the provider had accepted it.
            IpcError::InvalidRequest { detail } => IpcError::ProviderFailed { detail },
            error => error,
        }
    }
}

/// What a request may cost in tokens: a quarter of its characters, and the longest answer.
fn tokens(request: &AIRequest) -> u32 {
    let chars = |text: &str| text.chars().count();
    let messages = request.messages.iter().map(|message| chars(&message.content));
    let prompt = messages.sum::<usize>() + request.system_prompt.as_deref().map_or(0, chars);
    let answer = request.max_tokens.map_or(ANSWER_TOKENS, u64::from);
    u32::try_from(prompt as u64 / 4 + answer).unwrap_or(u32::MAX)
}
