//! Well-behaved clients that work as much as an attacker, in the attacker's place.
//!
//! A twin is given what one run of the attack was: how many connections, in how much time. It does
//! as many, spread over that time, and ends with it: where a visit takes longer than an attack, it
//! is the twin that would otherwise have it easier.

use std::collections::VecDeque;
use std::thread;

use annulus::MessageType;

use super::{PATIENCE, Peer, Seen, Stage, Until, Work};

/// Requests that a busy client has under way.
const AT_ONCE: u64 = 8;

/// One visitor for each connection of the attack: it comes, asks for an echo and leaves.
pub(crate) fn visits(stage: &Stage, work: Work) -> Vec<Seen> {
    one_after_the_other(work, || Peer::connect(stage).is_served())
}

/// One visitor for each connection of the attack, with so many requests one after the other.
pub(crate) fn long_visits(
    stage: &Stage,
    work: Work,
    message_type: MessageType,
    requests: u64,
) -> Vec<Seen> {
    one_after_the_other(work, || {
        let mut peer = Peer::connect(stage);
        let served = |id| {
            peer.send(message_type, id, &[7; 64]);
            peer.answer_to(id)
        };
        (0..requests).map(served).find(|seen| *seen != Seen::Served).unwrap_or(Seen::Served)
    })
}

/// One visitor for each connection of the attack, who asks for up to seven things at once, as the
/// attacker does, and leaves with the answers. An attacker that waits for none comes again sooner
/// than one who does, so the next ones come while [`AT_ONCE`] still wait.
pub(crate) fn overlapping_visits(
    stage: &Stage,
    work: Work,
    message_type: MessageType,
) -> Vec<Seen> {
    let (mut seen, mut waiting, mut came) = (Vec::new(), VecDeque::new(), 0);
    let leave = |(mut peer, requests): (Peer, u64)| match requests {
        0 => Seen::Left,
        // The last one: a worker answers in order.
        _ => peer.answer_to(requests),
    };
    one_after_the_other(work, || {
        let mut peer = Peer::connect(stage);
        let requests = came % AT_ONCE;
        came += 1;
        for id in 1..=requests {
            peer.send(message_type, id, b"");
        }
        waiting.push_back((peer, requests));
        if waiting.len() as u64 > AT_ONCE {
            seen.extend(waiting.pop_front().map(leave));
        }
        Seen::Left
    });
    seen.extend(waiting.into_iter().map(leave));
    seen
}

/// So many clients, who come one by one, stay, and leave together.
pub(crate) fn crowd(stage: &Stage, count: usize) -> Vec<Seen> {
    let peers: Vec<Peer> = (0..count).map(|_| Peer::connect(stage)).collect();
    peers.into_iter().map(|mut peer| peer.is_served()).collect()
}

/// Calls `visit` once for each connection, spread over the run's time: no more of them when it is
/// over, and nothing more until it is.
pub(crate) fn one_after_the_other(work: Work, mut visit: impl FnMut() -> Seen) -> Vec<Seen> {
    let between = work.until.left() / u32::try_from(work.connections.max(1)).unwrap_or(u32::MAX);
    let mut seen = Vec::new();
    for _ in 0..work.connections {
        let next = Until::after(between);
        seen.push(visit());
        if !work.until.goes_on() {
            break;
        }
        next.rest();
    }
    work.until.rest();
    seen
}

/// A well-behaved client that comes, asks for an echo and leaves, again and again.
pub(crate) fn comes_and_goes(stage: &Stage, until: Until) -> Vec<Seen> {
    let mut seen = Vec::new();
    while until.goes_on() {
        let mut peer = Peer::connect(stage);
        seen.push(peer.is_served());
    }
    seen
}

/// A well-behaved client that has eight requests of this type under way all the time.
pub(crate) fn busy(mut peer: Peer, until: Until, message_type: MessageType) -> Vec<Seen> {
    let mut id = 0;
    while until.goes_on() {
        for _ in 0..AT_ONCE {
            id += 1;
            peer.send(message_type, id, &[7; 64]);
        }
        let mut answers = 0;
        while answers < AT_ONCE {
            let Some((header, _)) = peer.receive(PATIENCE) else { return vec![Seen::Silent] };
            answers += u64::from(header.is_last());
        }
    }
    vec![Seen::Left]
}

/// The twin of an attacker that never sleeps: echoes all the time, polling.
pub(crate) fn spinning_echoes(stage: &Stage, until: Until) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    peer.spins = true;
    busy(peer, until, MessageType::ECHO)
}

/// The twin of an attacker that never sleeps and has so many connections: an echo on each in turn.
pub(crate) fn spinning_crowd(stage: &Stage, until: Until, count: usize) -> Vec<Seen> {
    let mut peers: Vec<Peer> = (0..count).map(|_| Peer::connect(stage)).collect();
    peers.iter_mut().for_each(|peer| peer.spins = true);
    let mut seen = vec![Seen::Served; count];
    for id in 1.. {
        for (peer, seen) in peers.iter_mut().zip(&mut seen) {
            peer.send(MessageType::ECHO, id, &[7; 64]);
            *seen = peer.answer_to(id);
        }
        if !until.goes_on() || seen.iter().any(|seen| *seen != Seen::Served) {
            break;
        }
    }
    seen
}

/// The same with requests that a worker answers.
pub(crate) fn spinning_heartbeats(stage: &Stage, until: Until) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    peer.spins = true;
    busy(peer, until, MessageType::HEARTBEAT)
}

/// The twin of one that sends 4,000 bytes at a time for a worker without end: what the worker does not
/// take because too much is under way, it asks the shard for, in echoes that move as many bytes.
pub(crate) fn spinning_flood(stage: &Stage, until: Until) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    peer.spins = true;
    let payload = vec![7; 4000];
    let (mut id, mut under_way) = (0, 0);
    while until.goes_on() {
        id += 1;
        let is_free = under_way < peer.welcome.in_flight_max;
        let (message_type, size) = match is_free {
            true => (MessageType::HEARTBEAT, 4000),
            false => (MessageType::ECHO, 2000),
        };
        under_way += u32::from(peer.try_send(message_type, id, &payload[..size]) && is_free);
        while let Some((header, answer)) = peer.take() {
            under_way -= u32::from(header.is_last() && answer.is_empty());
        }
    }
    vec![Seen::Left]
}

/// The twin of an attacker with two threads that never sleep.
pub(crate) fn two_spinning(stage: &Stage, until: Until) -> Vec<Seen> {
    beside_echoes(stage, until, spinning_echoes)
}

/// Well-behaved clients that keep as many cores busy as one that connects without end: one comes
/// and goes, for the control thread, and one asks for echoes all the time.
pub(crate) fn comes_and_goes_beside_echoes(stage: &Stage, until: Until) -> Vec<Seen> {
    beside_echoes(stage, until, comes_and_goes)
}

fn beside_echoes(stage: &Stage, until: Until, other: fn(&Stage, Until) -> Vec<Seen>) -> Vec<Seen> {
    thread::scope(|scope| {
        let echoes = scope.spawn(|| spinning_echoes(stage, until));
        let mut seen = other(stage, until);
        seen.extend(echoes.join().unwrap());
        seen
    })
}
