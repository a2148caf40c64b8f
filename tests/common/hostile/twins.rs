//! Well-behaved clients that work as much as an attacker, in the attacker's place.

use std::thread;

use annulus::MessageType;

use super::{PATIENCE, Peer, Seen, Stage, Until};

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
fn busy(mut peer: Peer, until: Until, message_type: MessageType) -> Vec<Seen> {
    const AT_ONCE: u64 = 8;
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

/// The same with requests that a worker answers.
pub(crate) fn spinning_heartbeats(stage: &Stage, until: Until) -> Vec<Seen> {
    let mut peer = Peer::connect(stage);
    peer.spins = true;
    busy(peer, until, MessageType::HEARTBEAT)
}

/// Well-behaved clients that keep as many cores busy as one that connects without end: one comes
/// and goes, for the control thread, and one asks for echoes all the time.
pub(crate) fn comes_and_goes_beside_echoes(stage: &Stage, until: Until) -> Vec<Seen> {
    thread::scope(|scope| {
        let echoes = scope.spawn(|| spinning_echoes(stage, until));
        let mut seen = comes_and_goes(stage, until);
        seen.extend(echoes.join().unwrap());
        seen
    })
}
