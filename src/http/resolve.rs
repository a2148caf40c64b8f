//! Names to addresses: the system's resolver, on a thread that may wait, remembered for a minute.
//!
//! The invariant to remember: at most one lookup of a name is on its way. A resolver that does not
//! answer therefore costs one of a few waiting threads a name, however many requests ask for it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::boot_instant::BootInstant;
use super::endpoint::is_loopback;
use crate::executor;

/// How long addresses are good for. `getaddrinfo(3)` does not tell the record's own time.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// How long a failure is: enough for the requests that were waiting, too short to be noticed.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// Names that are remembered; hosts come from the configuration, so there are few.
const NAMES_MAX: usize = 256;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Addresses in the order in which to try them, or why there are none.
pub(super) type Addresses = Result<Arc<[IpAddr]>, Arc<str>>;

#[derive(Clone, Default)]
pub(super) struct Resolver {
    names: Arc<Mutex<HashMap<String, Name>>>,
}

enum Name {
    /// A lookup is on its way; these wait for it.
    Asked(Vec<Waker>),
    Known {
        addresses: Addresses,
        until: BootInstant,
    },
}

impl Resolver {
    /// The addresses of `host`, which may be an address itself.
    pub(super) async fn resolve(&self, host: &str) -> Addresses {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok([address].into());
        }
        if is_loopback(host) {
            // Nobody's resolver decides what this machine is (RFC 6761 §6.3). Model servers listen
            // on the first one by default.
            return Ok([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].into());
        }
        poll_fn(|context| {
            let mut names = self.names();
            match names.get_mut(host) {
                Some(Name::Known { addresses, until }) if BootInstant::now() < *until => {
                    return Poll::Ready(addresses.clone());
                }
                Some(Name::Asked(waiting)) => {
                    if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                        waiting.push(context.waker().clone());
                    }
                    return Poll::Pending;
                }
                Some(Name::Known { .. }) | None => {}
            }
            forget_old(&mut names);
            names.insert(host.to_owned(), Name::Asked(vec![context.waker().clone()]));
            drop(names);
            let asked = Asked { resolver: self.clone(), host: host.to_owned(), answer: None };
            executor::spawn(asked.ask());
            Poll::Pending
        })
        .await
    }

    fn names(&self) -> MutexGuard<'_, HashMap<String, Name>> {
        self.names.lock().expect("no holder panics")
    }
}

/// Makes room for a name.
fn forget_old(names: &mut HashMap<String, Name>) {
    if names.len() < NAMES_MAX {
        return;
    }
    let now = BootInstant::now();
    names.retain(|_, name| !matches!(name, Name::Known { until, .. } if *until <= now));
    if names.len() >= NAMES_MAX {
        names.retain(|_, name| matches!(name, Name::Asked(_)));
    }
}

/// A lookup on its way. It goes on when nobody waits any more, because its thread cannot be stopped,
/// and wakes whoever waits even when it is dropped.
struct Asked {
    resolver: Resolver,
    host: String,
    answer: Option<Addresses>,
}

impl Asked {
    async fn ask(mut self) {
        let host = self.host.clone();
        self.answer = Some(executor::block(move || look_up(&host)).await);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Without an answer where the system has no thread for it. That is a failure as well: who
        // waits would otherwise ask again at once, and for ever.
        let unanswered = || Err("the lookup could not be started".into());
        let addresses = self.answer.take().unwrap_or_else(unanswered);
        let good_for = if addresses.is_ok() { GOOD_FOR } else { FAILED_FOR };
        let known = Name::Known { addresses, until: BootInstant::now() + good_for };
        let asked = self.resolver.names().insert(self.host.clone(), known);
        if let Some(Name::Asked(waiting)) = asked {
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// `getaddrinfo(3)`, which has sorted what it returns (RFC 6724).
fn look_up(host: &str) -> Addresses {
    let found = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let addresses = interleave(found.map(|address| address.ip()).collect());
    if addresses.is_empty() {
        return Err("the name has no address".into());
    }
    Ok(addresses.into())
}

/// The order of RFC 8305 §4: families in turn, beginning with that of the best address.
fn interleave(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let Some(first) = addresses.first() else { return addresses };
    let is_v6 = first.is_ipv6();
    let (same, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_v6);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut order: Vec<IpAddr> = Vec::new();
    while order.len() < ADDRESSES_MAX {
        let pair = [same.next(), other.next()];
        if pair == [None, None] {
            break;
        }
        let pair = pair.into_iter().flatten();
        for address in pair {
            if !order.contains(&address) {
                order.push(address);
            }
        }
    }
    order.truncate(ADDRESSES_MAX);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn on_an_executor<T: 'static>(task: impl Future<Output = T> + 'static) -> T {
        executor::testing::run(task)
    }

    #[test]
    fn families_take_turns_and_the_best_one_begins() {
        assert_eq!(
            interleave(addresses(&["::2", "::3", "::4", "10.0.0.1", "::2"])),
            addresses(&["::2", "10.0.0.1", "::3", "::4"])
        );
        assert_eq!(
            interleave(addresses(&["10.0.0.1", "10.0.0.2", "::2"])),
            addresses(&["10.0.0.1", "::2", "10.0.0.2"])
        );
        assert!(interleave(Vec::new()).is_empty());
        let many = (0..100).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert_eq!(interleave(many).len(), ADDRESSES_MAX);
    }

    #[test]
    fn addresses_and_this_machine_need_no_lookup() {
        on_an_executor(async {
            let resolver = Resolver::default();
            assert_eq!(*resolver.resolve("::2").await.unwrap(), addresses(&["::2"]));
            let local = resolver.resolve("localhost").await.unwrap();
            assert_eq!(*local, addresses(&["127.0.0.1", "::1"]));
            assert!(resolver.names().is_empty());
        });
    }

    #[test]
    fn a_name_is_looked_up_once_for_all_who_ask_and_a_failure_is_told_to_all() {
        on_an_executor(async {
            let resolver = Resolver::default();
            // RFC 6761 §6.4: never a name.
            let name = "nobody.invalid";
            let ask = || {
                let resolver = resolver.clone();
                executor::testing::task(async move { resolver.resolve(name).await })
            };
            let tasks: Vec<_> = (0..20).map(|_| ask()).collect();
            // Who goes away in the middle disturbs nobody.
            let leaves = ask();
            drop(leaves);
            for task in tasks {
                task.await.unwrap_err();
            }
            assert!(matches!(resolver.names()[name], Name::Known { addresses: Err(_), .. }));
        });
    }

    #[test]
    fn a_lookup_that_could_not_begin_has_failed() {
        let resolver = Resolver::default();
        let host = "annulus.test".to_owned();
        let asked = Name::Asked(vec![Waker::noop().clone()]);
        resolver.names().insert(host.clone(), asked);
        drop(Asked { resolver: resolver.clone(), host: host.clone(), answer: None });
        assert!(matches!(resolver.names()[&host], Name::Known { addresses: Err(_), .. }));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let resolver = Resolver::default();
        let mut names = resolver.names();
        let until = BootInstant::now() + GOOD_FOR;
        for n in 0..NAMES_MAX * 3 {
            forget_old(&mut names);
            let addresses = Err("".into());
            names.insert(format!("host{n}"), Name::Known { addresses, until });
            assert!(names.len() <= NAMES_MAX);
        }
    }
}
