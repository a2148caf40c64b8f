//! The breaker by its rules one by one, and against a model of them all.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const OPEN_FOR: Duration = Duration::from_secs(60);

fn breaker() -> CircuitBreaker {
    CircuitBreaker::new(BreakerSettings::default())
}

fn ask(breaker: &mut CircuitBreaker, verdict: Verdict, now: Duration) {
    let permit = breaker.try_acquire(now).unwrap();
    breaker.report(permit, verdict, now);
}

/// Open since the time 0.
fn opened() -> CircuitBreaker {
    let mut breaker = breaker();
    for _ in 0..5 {
        ask(&mut breaker, Verdict::Failure, Duration::ZERO);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    breaker
}

#[test]
fn five_failures_in_a_row_open_it_and_a_success_between_starts_the_count_anew() {
    let mut breaker = breaker();
    for _ in 0..4 {
        ask(&mut breaker, Verdict::Failure, SECOND);
    }
    ask(&mut breaker, Verdict::Success, SECOND);
    for _ in 0..4 {
        ask(&mut breaker, Verdict::Failure, SECOND);
        ask(&mut breaker, Verdict::Inconclusive, SECOND);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    ask(&mut breaker, Verdict::Failure, SECOND);
    assert_eq!(breaker.state(), BreakerState::Open);
    assert!(breaker.try_acquire(SECOND + OPEN_FOR - Duration::from_nanos(1)).is_none());
    assert_eq!(breaker.counts().rejected, 1);
}

#[test]
fn after_a_minute_one_probe_at_a_time_and_two_successes_close_it() {
    let mut breaker = opened();
    let first = breaker.try_acquire(OPEN_FOR).unwrap();
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert!(!breaker.is_ready(OPEN_FOR) && breaker.try_acquire(OPEN_FOR).is_none());
    breaker.report(first, Verdict::Success, OPEN_FOR);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    ask(&mut breaker, Verdict::Success, OPEN_FOR);
    assert_eq!(breaker.state(), BreakerState::Closed);
    let counts = breaker.counts();
    assert_eq!((counts.opened, counts.half_opened, counts.closed), (1, 1, 1));
}

#[test]
fn a_probe_that_fails_opens_it_for_another_minute() {
    let mut breaker = opened();
    ask(&mut breaker, Verdict::Success, OPEN_FOR);
    ask(&mut breaker, Verdict::Failure, OPEN_FOR + SECOND);
    assert!(!breaker.is_ready(2 * OPEN_FOR));
    assert!(breaker.is_ready(2 * OPEN_FOR + SECOND));
}

#[test]
fn a_cancelled_probe_gives_its_permit_back_and_counts_for_nothing() {
    let mut breaker = opened();
    for _ in 0..100 {
        let permit = breaker.try_acquire(OPEN_FOR).unwrap();
        breaker.cancel(permit);
    }
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    ask(&mut breaker, Verdict::Success, OPEN_FOR);
    ask(&mut breaker, Verdict::Success, OPEN_FOR);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn three_probes_without_a_result_open_it_again() {
    let mut breaker = opened();
    ask(&mut breaker, Verdict::Success, OPEN_FOR);
    for _ in 0..2 {
        ask(&mut breaker, Verdict::Inconclusive, OPEN_FOR);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    assert_eq!(breaker.counts().opened, 2);
}

#[test]
fn verdicts_of_an_earlier_period_change_nothing() {
    let mut breaker = breaker();
    let late: Vec<_> = (0..7).map(|_| breaker.try_acquire(Duration::ZERO).unwrap()).collect();
    let mut late = late.into_iter();
    for permit in late.by_ref().take(5) {
        breaker.report(permit, Verdict::Failure, Duration::ZERO);
    }
    let probe = breaker.try_acquire(OPEN_FOR).unwrap();
    breaker.report(late.next().unwrap(), Verdict::Failure, OPEN_FOR);
    breaker.cancel(late.next().unwrap());
    // The probe is still under way, and still the only one.
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert!(!breaker.is_ready(OPEN_FOR));
    breaker.report(probe, Verdict::Success, OPEN_FOR);
    assert!(breaker.is_ready(OPEN_FOR));
}

#[test]
fn force_holds_until_it_is_automatic_again() {
    let mut breaker = breaker();
    breaker.force_open();
    assert!(breaker.try_acquire(1000 * OPEN_FOR).is_none() && breaker.is_forced());
    breaker.force_close();
    for _ in 0..10 {
        ask(&mut breaker, Verdict::Failure, SECOND);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    breaker.automatic();
    for _ in 0..5 {
        assert_eq!(breaker.state(), BreakerState::Closed);
        ask(&mut breaker, Verdict::Failure, SECOND);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    breaker.automatic();
    assert_eq!(breaker.state(), BreakerState::Open, "it was not forced");
}

#[test]
fn settings_that_could_never_close_it_are_brought_into_range() {
    let settings = BreakerSettings {
        failures_max: 0,
        successes_min: 9,
        open_for: Duration::ZERO,
        probes_max: 0,
    };
    let mut breaker = CircuitBreaker::new(settings);
    ask(&mut breaker, Verdict::Failure, SECOND);
    assert_eq!(breaker.state(), BreakerState::Open);
    ask(&mut breaker, Verdict::Success, SECOND);
    assert_eq!(breaker.state(), BreakerState::Closed);
}

/// What the breaker promises, said from the history alone: the model keeps every event and works
/// the state out from the beginning each time that it is asked.
mod model {
    use super::*;

    #[derive(Clone, Copy, Debug)]
    pub(super) enum Event {
        Begin { at: Duration, id: usize },
        End { at: Duration, id: usize, verdict: Option<Verdict> },
    }

    /// The state after this history, and the requests that were let through as probes of the
    /// current half-open period and have not ended.
    pub(super) fn replay(
        history: &[Event],
        settings: &BreakerSettings,
    ) -> (BreakerState, Vec<usize>) {
        let mut state = BreakerState::Closed;
        let (mut row, mut good, mut spent) = (0, 0, 0);
        let mut opened_at = Duration::ZERO;
        // Requests that began since the last change of state.
        let mut members: Vec<usize> = Vec::new();
        for event in history {
            let before = state;
            match *event {
                Event::Begin { at, id } => {
                    if state == BreakerState::Open && at >= opened_at + settings.open_for {
                        (state, good, spent) = (BreakerState::HalfOpen, 0, 0);
                        members.clear();
                    }
                    members.push(id);
                    continue;
                }
                Event::End { at, id, verdict } => {
                    let Some(index) = members.iter().position(|member| *member == id) else {
                        continue;
                    };
                    members.swap_remove(index);
                    match (state, verdict) {
                        (_, None) => {}
                        (BreakerState::Closed, Some(Verdict::Success)) => row = 0,
                        (BreakerState::Closed, Some(Verdict::Failure)) => row += 1,
                        (BreakerState::HalfOpen, Some(verdict)) => {
                            spent += 1;
                            good += u32::from(verdict == Verdict::Success);
                            let failed = verdict == Verdict::Failure;
                            if good == settings.successes_min {
                                state = BreakerState::Closed;
                            } else if failed || spent == settings.probes_max {
                                (state, opened_at) = (BreakerState::Open, at);
                            }
                        }
                        _ => {}
                    }
                    if state == BreakerState::Closed && row == settings.failures_max {
                        (state, opened_at) = (BreakerState::Open, at);
                    }
                }
            }
            if state != before {
                row = 0;
                members.clear();
            }
        }
        let probes = if state == BreakerState::HalfOpen { members } else { Vec::new() };
        (state, probes)
    }
}

#[test]
fn every_history_ends_in_the_state_that_the_model_works_out() {
    let seed = std::env::var("ANNULUS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("ANNULUS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut states_seen = [0_u32; 3];
    for _ in 0..300 {
        let settings = BreakerSettings {
            failures_max: random.u32(1..4),
            successes_min: random.u32(1..3),
            open_for: Duration::from_secs(random.u64(0..5)),
            probes_max: random.u32(2..4),
        };
        let mut breaker = CircuitBreaker::new(settings);
        let mut history = Vec::new();
        let mut open: Vec<(usize, Permit)> = Vec::new();
        let mut now = Duration::ZERO;
        for id in 0..120 {
            now += Duration::from_millis(random.u64(0..1500));
            if random.bool() {
                let expected = breaker.is_ready(now);
                let permit = breaker.try_acquire(now);
                assert_eq!(permit.is_some(), expected);
                if let Some(permit) = permit {
                    history.push(model::Event::Begin { at: now, id });
                    open.push((id, permit));
                }
            } else if !open.is_empty() {
                let (id, permit) = open.swap_remove(random.usize(..open.len()));
                let verdict = match random.u8(0..8) {
                    0..=2 => Some(Verdict::Failure),
                    3..=5 => Some(Verdict::Success),
                    6 => Some(Verdict::Inconclusive),
                    _ => None,
                };
                match verdict {
                    Some(verdict) => breaker.report(permit, verdict, now),
                    None => breaker.cancel(permit),
                }
                history.push(model::Event::End { at: now, id, verdict });
            }
            let (state, probes) = model::replay(&history, &settings);
            assert_eq!(breaker.state(), state, "seed {seed}: {history:?}");
            assert!(probes.len() <= 1, "seed {seed}: two probes at once: {history:?}");
            if state == BreakerState::HalfOpen {
                assert_eq!(breaker.is_ready(now), probes.is_empty(), "seed {seed}");
            }
            states_seen[state as usize] += 1;
        }
    }
    assert!(states_seen.iter().all(|count| *count > 500), "{states_seen:?}");
}
