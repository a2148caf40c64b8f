//! One remote provider of a pool: its endpoints and its keys, and which pair a request gets.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use secrecy::SecretString;

use super::backoff::Dice;
use super::endpoint::{self, EndpointState};
use super::key::{KeyState, Rest, Turn, Why};
use super::lease::Lease;
use super::limits::Limits;
use super::seams::Time;
use super::settings::ProviderSettings;
use crate::metrics::ProviderMetrics;
use crate::provider::breaker::{BreakerCounts, BreakerSettings, BreakerState, CircuitBreaker};

/// One remote provider.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) settings: ProviderSettings,
    pub(super) metrics: Arc<ProviderMetrics>,
    pub(super) time: Arc<dyn Time>,
    /// Never held across an await.
    state: Mutex<State>,
}

/// What changes while requests come and go.
pub(super) struct State {
    pub(super) endpoints: Vec<EndpointState>,
    pub(super) keys: Vec<KeyState>,
    dice: Dice,
    /// What the metrics know of the breakers.
    shown: BreakerCounts,
}

/// What one request has tried of a member.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    pub(super) endpoints: Vec<Mark>,
    pub(super) keys: Vec<Mark>,
}

/// What one request knows of an endpoint or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Not tried.
    Fresh,
    /// The provider refused the key, and takes another one if it has been replaced.
    Refused,
    /// It failed the request, which may come again from then on.
    Tried { again_at: Duration },
}

impl Mark {
    /// It is of no use to this request.
    pub(super) const NEVER: Self = Self::Tried { again_at: Duration::MAX };

    /// From when on it may be used; with `reuse`, even though it was tried.
    const fn usable_at(self, reuse: bool) -> Option<Duration> {
        match self {
            Self::Fresh | Self::Refused => Some(Duration::ZERO),
            Self::Tried { again_at: Duration::MAX } => None,
            Self::Tried { again_at } if reuse => Some(again_at),
            Self::Tried { .. } => None,
        }
    }
}

/// Why there is no pair for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoPair {
    /// When there will be one, if it is only a matter of time.
    pub(super) ready_at: Option<Duration>,
}

impl Member {
    pub(super) fn new(
        name: &str,
        settings: ProviderSettings,
        breaker: BreakerSettings,
        time: &Arc<dyn Time>,
        seed: u64,
    ) -> Self {
        let endpoints = settings
            .endpoints
            .iter()
            .map(|endpoint| {
                EndpointState::new(Arc::clone(&endpoint.transport), endpoint.weight, breaker)
            })
            .collect();
        let limits = || Limits::new(settings.requests_per_minute, settings.tokens_per_minute, time);
        let mut keys: Vec<KeyState> = settings
            .keys
            .iter()
            .map(|reader| KeyState::new(Some(Arc::clone(reader)), limits()))
            .collect();
        if keys.is_empty() && !settings.row.needs_key {
            keys.push(KeyState::new(None, limits()));
        }
        let member = Self {
            name: name.to_owned(),
            metrics: Arc::new(ProviderMetrics::new(name)),
            time: Arc::clone(time),
            state: Mutex::new(State {
                endpoints,
                keys,
                dice: Dice::new(seed),
                shown: BreakerCounts::default(),
            }),
            settings,
        };
        member.lock().show(&member.metrics);
        member
    }

    /// Marks for a request that has tried nothing.
    pub(super) fn marks(&self) -> Marks {
        let state = self.lock();
        Marks {
            endpoints: vec![Mark::Fresh; state.endpoints.len()],
            keys: vec![Mark::Fresh; state.keys.len()],
        }
    }

    /// Takes a pair of an endpoint and a key for a request of so many tokens; with `reuse`, also one
    /// that has failed it.
    ///
    /// # Errors
    ///
    /// [`NoPair`] says when there may be one.
    pub(super) fn choose(
        self: &Arc<Self>,
        marks: &Marks,
        reuse: bool,
        tokens: u32,
    ) -> Result<Lease, NoPair> {
        let now = self.time.now();
        let mut guard = self.lock();
        let State { endpoints, keys, dice, .. } = &mut *guard;

        let mut usable = Earliest::new(now);
        for (index, (endpoint, mark)) in endpoints.iter_mut().zip(&marks.endpoints).enumerate() {
            let Some(at) = mark.usable_at(reuse) else { continue };
            if endpoint.breaker.is_ready(now) {
                usable.add(index, at);
            } else if !reuse {
                endpoint.breaker.count_rejection();
            }
        }
        let mut usable_keys = Earliest::new(now);
        for (index, (key, mark)) in keys.iter().zip(&marks.keys).enumerate() {
            let Some(at) = mark.usable_at(reuse) else { continue };
            match key.rest(now) {
                None => usable_keys.add(index, at),
                Some(Rest { why: Why::Cooling, until }) => usable_keys.add(index, at.max(until)),
                Some(_) => {}
            }
        }

        let chosen = endpoint::choose(endpoints, &usable.now, dice, now);
        if let Some(endpoint) = chosen {
            // The least used first, and none of those by its place in the list.
            let mut order = std::mem::take(&mut usable_keys.now);
            if !order.is_empty() {
                let turn = dice.pick(&vec![1; order.len()]).unwrap_or(0);
                order.rotate_left(turn);
                order.sort_by_key(|index| keys[*index].in_flight);
            }
            for key in order {
                match keys[key].take(tokens) {
                    Ok(()) => {
                        let permit = endpoints[endpoint].breaker.try_acquire(now);
                        endpoints[endpoint].in_flight += 1;
                        keys[key].in_flight += 1;
                        guard.show(&self.metrics);
                        return Ok(Lease::new(Arc::clone(self), endpoint, key, permit));
                    }
                    Err(until) => usable_keys.add(key, until),
                }
            }
        }
        guard.show(&self.metrics);
        let ready_at =
            usable.earliest().zip(usable_keys.earliest()).map(|(first, second)| first.max(second));
        Err(NoPair { ready_at })
    }

    /// The key of a lease, read if it is not known, and its version; no key for a provider that needs
    /// none.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is still the one that was refused; the text says so. It rests now.
    pub(super) async fn secret(&self, key: usize) -> Result<(Option<SecretString>, u32), Arc<str>> {
        let mut has_waited = false;
        let reader = poll_fn(|context| {
            let mut state = self.lock();
            let state = &mut state.keys[key];
            match state.problem(self.time.now()).filter(|_| has_waited) {
                Some(problem) => Poll::Ready(Err(problem)),
                None => match state.turn(context.waker()) {
                    Turn::Known => Poll::Ready(Ok(None)),
                    Turn::Read(reader) => Poll::Ready(Ok(Some(reader))),
                    Turn::Wait => {
                        has_waited = true;
                        Poll::Pending
                    }
                },
            }
        });
        if let Some(reader) = reader.await? {
            // Wakes the others in the end, and even when this request is given up.
            let _reading = Reading { member: self, key };
            let read = reader.read().await;
            let now = self.time.now();
            let state = &mut self.lock().keys[key];
            match read {
                Ok(secret) => state.remember(&secret, now)?,
                Err(reason) => return Err(state.could_not_be_read(&reason, now)),
            }
        }
        let state = self.lock();
        let (secret, version) = state.keys[key].secret();
        Ok((secret.cloned(), version))
    }

    /// The keys that could be used as they are, with their versions: the identities under which
    /// answers are cached.
    pub(super) fn known_keys(&self) -> Vec<(usize, u32)> {
        let state = self.lock();
        let known = |(index, key): (usize, &KeyState)| Some((index, key.known_version()?));
        state.keys.iter().enumerate().filter_map(known).collect()
    }

    /// Why there is no pair for anybody, for the client to read.
    pub(super) fn why_not(&self, now: Duration) -> String {
        let state = self.lock();
        if state.keys.is_empty() {
            let variables = self.settings.row.key_variables.join(" or ");
            return format!("there is no key: set {variables} or providers.{}.keys", self.name);
        }
        let rests: Vec<Rest> = state.keys.iter().filter_map(|key| key.rest(now)).collect();
        let soonest = rests.iter().min_by_key(|rest| rest.until);
        match soonest {
            Some(rest) if rests.len() == state.keys.len() => {
                let seconds = whole_seconds(rest.until.saturating_sub(now));
                match rest.why {
                    Why::Cooling => format!("its rate is limited for another {seconds} s"),
                    Why::Exhausted => "its quota is used up".into(),
                    Why::Bad => {
                        format!("it refused the key: mend it; it is tried again in {seconds} s")
                    }
                    Why::Unread => "its key cannot be read".into(),
                }
            }
            _ => "its endpoints failed lately and are left alone for a while".into(),
        }
    }

    /// Whether a request would find an endpoint that is not left alone.
    pub(super) fn is_ready(&self) -> bool {
        let now = self.time.now();
        let state = self.lock();
        !state.keys.is_empty() && state.endpoints.iter().any(|it| it.breaker.is_ready(now))
    }

    /// Does something to the breaker of each endpoint.
    pub(super) fn each_breaker(&self, mut change: impl FnMut(&mut CircuitBreaker)) {
        let mut state = self.lock();
        state.endpoints.iter_mut().for_each(|endpoint| change(&mut endpoint.breaker));
        state.show(&self.metrics);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody reads a key.
struct Reading<'m> {
    member: &'m Member,
    key: usize,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let waiting = self.member.lock().keys[self.key].read_is_over();
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Brings the metrics up to the breakers' counts.
    pub(super) fn show(&mut self, metrics: &ProviderMetrics) {
        use crate::metrics::EndpointState as Shown;
        let mut total = BreakerCounts::default();
        let mut states = [0; Shown::COUNT];
        let in_flight = self.endpoints.iter().map(|endpoint| u64::from(endpoint.in_flight)).sum();
        metrics.usage.provider_in_flight.set(in_flight);
        for endpoint in &self.endpoints {
            let counts = endpoint.breaker.counts();
            total.opened += counts.opened;
            total.half_opened += counts.half_opened;
            total.closed += counts.closed;
            total.rejected += counts.rejected;
            let state = match endpoint.breaker.state() {
                BreakerState::Closed => Shown::Closed,
                BreakerState::Open => Shown::Open,
                BreakerState::HalfOpen => Shown::HalfOpen,
            };
            states[state as usize] += 1;
        }
        for &state in Shown::ALL {
            metrics.endpoints(state).set(states[state as usize]);
        }
        let before = std::mem::replace(&mut self.shown, total);
        metrics.transitions(Shown::Open).add(total.opened - before.opened);
        metrics.transitions(Shown::HalfOpen).add(total.half_opened - before.half_opened);
        metrics.transitions(Shown::Closed).add(total.closed - before.closed);
        metrics.usage.provider_breaker_rejections_total.add(total.rejected - before.rejected);
    }
}

/// What can be used now, and when the first of the others can.
struct Earliest {
    time: Duration,
    now: Vec<usize>,
    later: Option<Duration>,
}

impl Earliest {
    const fn new(time: Duration) -> Self {
        Self { time, now: Vec::new(), later: None }
    }

    fn add(&mut self, index: usize, at: Duration) {
        if at <= self.time {
            self.now.push(index);
        } else {
            self.later = Some(self.later.map_or(at, |later| later.min(at)));
        }
    }

    fn earliest(&self) -> Option<Duration> {
        if self.now.is_empty() { self.later } else { Some(self.time) }
    }
}

/// Rounded up, so that nobody comes too early.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
