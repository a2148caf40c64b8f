//! What a client does wrong: it stalls, dies, tears a frame, stops reading, scribbles, offends.

use annulus::MessageType;
use annulus::sync::AtomicU64;
use annulus::sync::Ordering::Relaxed;
use annulus::wire::{FrameHeader, Position};

use super::super::plan::Plan;
use super::super::stage::Stage;
use super::{Client, Honesty, Signal, State};

impl Client {
    /// Does what the plan's faults want at this step; true when that was the step.
    pub(super) fn misbehave(
        &mut self,
        stage: &Stage,
        plan: &Plan,
        signals: &mut Vec<Signal>,
    ) -> bool {
        if stage.chance(plan.faults.client_stall) {
            self.stalled_until = stage.now() + stage.below(plan.faults.stall_ns_max);
            return true;
        }
        if stage.chance(plan.faults.death) {
            if stage.chance(plan.faults.torn) {
                self.tear(stage);
            }
            self.leave(stage, signals);
            return true;
        }
        if stage.chance(plan.faults.spurious_ring) {
            signals.push(Signal::Ring(self.index));
            return true;
        }
        if self.honesty == Honesty::Honest && stage.chance(plan.faults.freeze) {
            stage.note(|| format!("client {} stops reading for good", self.index));
            self.honesty = Honesty::Frozen;
            self.state = State::Parked { until: None };
            return true;
        }
        if self.is_honest() && stage.chance(plan.faults.hostile) {
            if stage.chance(500) {
                self.scribble(stage);
            } else {
                self.offend(stage, plan, signals);
            }
            return true;
        }
        false
    }

    /// Dies in the middle of a publish: everything is there but the word that publishes it.
    fn tear(&self, stage: &Stage) {
        // A producer writes only where it knows that there is space.
        let free = self.requests.free_size(self.view().request_ring());
        let count = stage.below((free / 8).saturating_sub(8).min(30));
        for word in 1..=count {
            self.word(self.requests.tail().0 + 8 * word).store(stage.below(u64::MAX), Relaxed);
        }
        stage.note(|| format!("client {} tears a frame after {count} words", self.index));
    }

    /// Writes random words anywhere, more often where it hurts.
    fn scribble(&mut self, stage: &Stage) {
        self.honesty = Honesty::Suspect;
        for _ in 0..=stage.below(4) {
            self.scribble_once(stage);
        }
    }

    pub(crate) fn scribble_once(&self, stage: &Stage) {
        let tail = self.requests.tail().0;
        let value = stage.pick(&[0, 1, 64, u64::MAX, tail, stage.below(u64::MAX)]);
        let header = usize::try_from(self.layout.header_offset() / 8).unwrap();
        let word = match stage.below(4) {
            // The lines of the shared header.
            0 => &self.words[header + stage.index(48)],
            // Around the frames that the shard is about to read.
            1 => self.word(self.request_head() & !63 | (8 * stage.below(8))),
            2 => self.word(tail + 8 * stage.below(8)),
            _ => &self.words[stage.index(self.words.len())],
        };
        word.store(value, Relaxed);
        stage.note(|| format!("client {} scribbles {value:#x}", self.index));
    }

    /// Breaks the protocol where the daemon must see it.
    fn offend(&mut self, stage: &Stage, plan: &Plan, signals: &mut Vec<Signal>) {
        let tail = self.requests.tail();
        let mut header = FrameHeader::request(MessageType::ECHO, self.next_id);
        let words = match stage.below(7) {
            0 => {
                signals.push(Signal::Chatter(self.index));
                self.honesty = Honesty::Guilty;
                stage.note(|| format!("client {} talks on its socket", self.index));
                return;
            }
            1 => [1 + stage.below(u64::MAX - 1), 0, 0, 0],
            2 => {
                header.message_type = 0xF001;
                header.sealed(tail)
            }
            3 => {
                header.flags = 1;
                header.sealed(tail)
            }
            4 => {
                header.payload_size = u32::try_from(plan.layout.request_capacity()).unwrap();
                header.sealed(tail)
            }
            5 => {
                // A whole frame of an earlier lap.
                let capacity = self.layout.request_capacity();
                header.sealed(Position(tail.0 ^ capacity))
            }
            _ => FrameHeader::padding(self.layout.request_capacity() * 2).sealed(tail),
        };
        stage.note(|| format!("client {} offends with {:#x}", self.index, words[0]));
        for (at, word) in words.into_iter().enumerate().rev() {
            self.word(tail.0 + 8 * at as u64).store(word, Relaxed);
        }
        self.honesty = Honesty::Guilty;
        self.unnotified = true;
    }

    /// The word of the request ring at `position`.
    fn word(&self, position: u64) -> &AtomicU64 {
        let offset = position & (self.layout.request_capacity() - 1) & !7;
        &self.words[usize::try_from((self.layout.request_offset() + offset) / 8).unwrap()]
    }
}
