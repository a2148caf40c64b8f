//! The pool of providers: who answers a request, and who else when the first does not.
//!
//! ```text
//! settings    what a pool is made from           seams      what it needs of the world
//! route       a model's name → who is asked      search     who is asked next
//! member      one provider: endpoints × keys     answer     attempts, the commit point, the stream
//! endpoint    breaker, load, the choice of two   attempt    one request and its answer
//! key limits  reading, resting, rates            lease      the use of an endpoint and a key
//! backoff     waits                              watch      deadlines
//! request     headers and the key                keepsakes  what providers want back
//! real        the world behind the seams, but for the network
//! ```
//!
//! The cool-down belongs to a key, the breaker to an endpoint, and both learn how a request ended
//! when its answer has ended: a status of 200 is no success yet. A request that its client cancels
//! is dropped with everything that it holds, and is nobody's failure.

mod answer;
mod attempt;
mod backoff;
mod endpoint;
mod keepsakes;
mod key;
mod lease;
mod limits;
mod member;
mod real;
mod request;
mod route;
mod seams;
mod search;
mod settings;
#[cfg(test)]
mod tests;
mod watch;

pub(super) use request::get;

pub use real::{Dialects, ExecutorTime};
pub use seams::{Decode, KeyReader, Local, Response, Signer, Time, Transport, Wire};
pub use settings::{
    EndpointSettings, MemberSettings, PoolSettings, ProviderSettings, UpstreamSettings,
};

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use futures_lite::stream;

use self::answer::Answer;
use self::attempt::Tools;
use self::backoff::Dice;
use self::keepsakes::KeepsakeTable;
use self::member::Member;
use self::route::Routes;
use self::search::Goal;
use super::cache::ResponseCache;
use super::{CircuitBreaker, EventStream, Provider};
use crate::dialect::Failure;
use crate::metrics::ProviderMetrics;
use crate::protocol::AIRequest;

/// All providers behind one: routes each request to one of them, spreads the load over endpoints and
/// keys, and goes elsewhere when somebody fails before the first output.
#[derive(Clone)]
pub struct ProviderPool {
    shared: Arc<Shared>,
}

/// What all answers of a pool have in common.
struct Shared {
    members: BTreeMap<String, Entry>,
    routes: Routes,
    upstream: UpstreamSettings,
    cache: Option<ResponseCache>,
    tools: Arc<Tools>,
    seeds: RandomState,
}

enum Entry {
    Remote(Arc<Member>),
    Local(Arc<dyn Provider>),
}

impl ProviderPool {
    /// A pool of these providers.
    ///
    /// # Errors
    ///
    /// Names the setting that does not fit the others, and what to do.
    pub fn new(
        settings: PoolSettings,
        time: Arc<dyn Time>,
        wire: Arc<dyn Wire>,
    ) -> Result<Self, String> {
        let routes = Routes::new(&settings)?;
        let seeds = RandomState::new();
        let mut members = BTreeMap::new();
        for (name, member) in settings.providers {
            let entry = match member {
                MemberSettings::Remote(remote) => {
                    if remote.endpoints.is_empty() {
                        return Err(format!("providers.{name} has no endpoint: set its base_urls"));
                    }
                    let seed = seeds.hash_one(&name);
                    let breaker = settings.upstream.breaker;
                    Entry::Remote(Arc::new(Member::new(&name, *remote, breaker, &time, seed)))
                }
                MemberSettings::Local(provider) => Entry::Local(provider),
            };
            members.insert(name, entry);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                members,
                routes,
                upstream: settings.upstream,
                cache: settings.cache.map(ResponseCache::new),
                tools: Arc::new(Tools { time, wire, keepsakes: KeepsakeTable::default() }),
                seeds,
            }),
        })
    }

    /// What the remote providers are asked, one block for each, to be shown by
    /// [`crate::metrics::Metrics::show_providers`].
    #[must_use]
    pub fn metrics(&self) -> Vec<Arc<ProviderMetrics>> {
        self.remotes().map(|member| Arc::clone(&member.metrics)).collect()
    }

    /// Whether anybody could answer now: one endpoint at least is not left alone.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let mut entries = self.shared.members.values();
        entries.any(|entry| match entry {
            Entry::Remote(member) => member.is_ready(),
            Entry::Local(_) => true,
        })
    }

    /// Does something to the circuit breakers of a provider's endpoints, such as forcing them open.
    /// False when no remote provider has this name.
    pub fn each_breaker(&self, provider: &str, change: impl FnMut(&mut CircuitBreaker)) -> bool {
        match self.shared.members.get(provider) {
            Some(Entry::Remote(member)) => {
                member.each_breaker(change);
                true
            }
            _ => false,
        }
    }

    fn remotes(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.shared.members.values().filter_map(|entry| match entry {
            Entry::Remote(member) => Some(member),
            Entry::Local(_) => None,
        })
    }
}

impl Provider for ProviderPool {
    fn start(&self, request: AIRequest) -> EventStream {
        // Boxed, because it would be moved with each event.
        let answer = Box::new(Answer::new(Arc::clone(&self.shared), request));
        Box::pin(stream::unfold(answer, |mut answer| async move {
            let event = answer.next().await?;
            Some((event, answer))
        }))
    }
}

impl Shared {
    /// Who is to be asked for a model, the first of them first.
    fn goals(&self, model: &str) -> Result<Vec<Goal>, Failure> {
        let targets = self.routes.targets(model)?;
        let goal = |target: route::Target| match &self.members[&target.provider] {
            Entry::Remote(member) => {
                Goal::Remote { member: Arc::clone(member), model: target.model }
            }
            Entry::Local(provider) => Goal::Local(Arc::clone(provider)),
        };
        Ok(targets.into_iter().map(goal).collect())
    }

    /// Dice that fall differently for each request.
    fn dice(&self) -> Dice {
        Dice::new(self.seeds.hash_one(self.tools.time.now()))
    }
}
