//! Any number of requests, providers, faults and cancels at once: a seed is a run.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::super::seams::Time;
use super::super::*;
use super::world::*;

const PROVIDERS: [&str; 3] = ["first", "second", "third"];

/// A reply that marks its texts with `name`, and the whole of them.
fn reply(random: &mut fastrand::Rng, name: &str) -> Reply {
    let text = |text: String| Act::Send(format!("text {text}\n"));
    let mut acts = Vec::new();
    for index in 0..random.usize(0..4) {
        match random.u8(0..6) {
            0 => acts.push(Act::Send("ping\n".into())),
            1 => acts.push(Act::Wait(Duration::from_secs(random.u64(0..120)))),
            _ => acts.push(text(format!("{name}{index};"))),
        }
    }
    match random.u8(0..8) {
        0 => acts.push(Act::Break),
        1 => acts.push(Act::Send("fail x\n".into())),
        2 => {}
        _ => acts.push(Act::Send("end\n".into())),
    }
    let status = match random.u8(0..10) {
        0 => None,
        1 => Some(random.choice([400, 401, 402, 403, 429, 500, 503, 529]).unwrap()),
        _ => Some(200),
    };
    Reply {
        wait: Duration::from_millis(random.u64(0..3000)),
        status,
        retry_after: random.bool().then(|| f64::from(random.u8(0..90))),
        acts,
    }
}

#[test]
fn every_answer_is_one_providers_and_everything_is_given_back() {
    let seed = std::env::var("ANNULUS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("ANNULUS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut whole_count, mut failed_count, mut cancelled_count) = (0, 0, 0);
    for _ in 0..20 {
        let mut world = World::new();
        let mut endpoints = Vec::new();
        for name in PROVIDERS {
            let mut script = || (0..200).map(|_| reply(&mut random, name)).collect();
            let scripts: [Vec<Reply>; 2] = [script(), script()];
            endpoints.extend(world.provider(name, scripts));
        }
        world.route(&PROVIDERS[..2]);
        world.settings.upstream.failover = vec!["third".into()];
        if let Some(MemberSettings::Remote(third)) = world.settings.providers.get_mut("third") {
            third.default_model = Some("d".into());
        }
        let running = world.pool();
        let requests: Vec<_> = (0..40)
            .map(|_| {
                let (pool, time) = (running.pool.clone(), running.time.clone());
                let begin = Duration::from_millis(random.u64(0..400_000));
                let patience = random.bool().then(|| Duration::from_millis(random.u64(0..20_000)));
                let one = async move {
                    time.sleep(begin).await;
                    let answer = async { Some(collect(pool.start(request("m"))).await) };
                    match patience {
                        None => answer.await,
                        Some(patience) => {
                            let left = async {
                                time.sleep(patience).await;
                                None
                            };
                            futures_lite::future::or(answer, left).await
                        }
                    }
                };
                Box::pin(one) as Pin<Box<dyn Future<Output = Option<Outcome>>>>
            })
            .collect();
        for outcome in running.time.run(all(requests)) {
            let Some((text, result)) = outcome else {
                cancelled_count += 1;
                continue;
            };
            let from = |name: &&str| text.contains(*name);
            assert!(PROVIDERS.iter().filter(|name| from(name)).count() <= 1, "{seed}: {text}");
            match result {
                Ok(()) => whole_count += 1,
                Err(_) => failed_count += 1,
            }
        }
        running.assert_idle();
        assert!(endpoints.iter().all(|endpoint| endpoint.open_count() == 0), "seed {seed}");
    }
    println!("{whole_count} whole, {failed_count} failed, {cancelled_count} cancelled");
    assert!(whole_count > 100 && failed_count > 20 && cancelled_count > 20);
}

/// The outputs of all of them, in their order.
async fn all<T>(mut works: Vec<Pin<Box<dyn Future<Output = T>>>>) -> Vec<T> {
    let mut outputs: Vec<Option<T>> = works.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (work, output) in works.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(done) = work.as_mut().poll(context)
            {
                *output = Some(done);
            }
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
