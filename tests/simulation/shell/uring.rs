//! The shell's uring: what happens in the kernel, and when the shard hears of it.

use annulus::connection::{Ending, Timestamp};
use annulus::wire::Fault;

use super::super::client::Signal;
use super::Shell;

/// A connection's place in the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// What happens later.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// The client rang.
    Doorbell(Key),
    /// The client hung up, or talks.
    Socket(Key, Ending),
    /// The kernel carries out the write to the client's doorbell.
    Write(Key),
    /// That write is complete.
    Rung(Key),
    /// An operation was cancelled.
    Ended(Key),
    /// A worker or the control thread rang the shard.
    Wake,
}

impl Shell {
    /// When the kernel next does something.
    pub(crate) fn kernel_at(&self) -> Option<u64> {
        self.events.iter().filter(|(_, event)| event.is_kernels()).map(|(at, _)| *at).min()
    }

    /// Carries out what the kernel owes by now.
    pub(crate) fn kernel(&mut self) {
        let now = self.stage.now();
        // Bounded: a write becomes a completion.
        while let Some(index) =
            self.events.iter().position(|(at, event)| event.is_kernels() && *at <= now)
        {
            let (_, Event::Write(key)) = self.events.swap_remove(index) else { unreachable!() };
            if let Some(client) = self.seats[key.slot as usize].client {
                self.actors.borrow_mut().clients[client].rung += 1;
            }
            let at = self.later();
            self.events.push((at, Event::Rung(key)));
        }
    }

    /// A client's doing reaches the kernel.
    pub(crate) fn take_signals(&mut self) {
        let signals = std::mem::take(&mut self.actors.borrow_mut().signals);
        for signal in signals {
            let client = signal.client();
            let Some(slot) = self.seats.iter().position(|seat| seat.client == Some(client)) else {
                if self.arrivals.contains(&client) {
                    self.early.push(signal);
                }
                continue;
            };
            self.raise(u32::try_from(slot).unwrap(), signal);
        }
    }

    pub(super) fn raise(&mut self, slot: u32, signal: Signal) {
        let seat = &self.seats[slot as usize];
        if seat.closing {
            return;
        }
        let key = Key { slot, generation: seat.generation };
        let is_merged = self.has_doorbell(slot) && self.stage.chance(500);
        let event = match signal {
            Signal::Ring(_) if is_merged => return,
            Signal::Ring(_) => Event::Doorbell(key),
            Signal::HangUp(_) => Event::Socket(key, Ending::ClientLeft),
            Signal::Chatter(_) => Event::Socket(key, Ending::Fault(Fault::SocketBytes)),
        };
        let at = self.later();
        self.events.push((at, event));
    }

    pub(super) fn has_doorbell(&self, slot: u32) -> bool {
        let of_slot = |event: &Event| matches!(event, Event::Doorbell(key) if key.slot == slot);
        self.events.iter().any(|(_, event)| of_slot(event))
    }

    pub(super) fn later(&self) -> u64 {
        let max = if self.stage.calm.get() { 100 } else { self.plan.faults.delay_ns_max };
        self.stage.now() + self.stage.below(max + 1)
    }

    pub(super) fn take_events(&mut self, now: u64) {
        let mut due = Vec::new();
        let mut index = 0;
        while index < self.events.len() {
            let (at, event) = self.events[index];
            if at <= now && !event.is_kernels() {
                due.push(self.events.swap_remove(index).1);
            } else {
                index += 1;
            }
        }
        // In any order: nothing promises that the kernel completes what happened first.
        while !due.is_empty() {
            let event = due.swap_remove(self.stage.index(due.len()));
            self.take_event(event, now);
        }
    }

    fn take_event(&mut self, event: Event, now: u64) {
        let (Event::Doorbell(key)
        | Event::Socket(key, _)
        | Event::Write(key)
        | Event::Rung(key)
        | Event::Ended(key)) = event
        else {
            return;
        };
        let seat = &mut self.seats[key.slot as usize];
        if seat.generation != key.generation {
            // Taken in one batch with the close that made it void.
            return;
        }
        if matches!(event, Event::Rung(_) | Event::Ended(_)) {
            seat.operations -= 1;
        }
        if seat.closing {
            self.release_if_done(key.slot);
            return;
        }
        match event {
            Event::Rung(_) => {
                seat.ringing = false;
                if std::mem::take(&mut seat.ring_again) {
                    self.ring(key.slot);
                }
            }
            Event::Doorbell(_) => {
                self.stage.note(|| format!("the doorbell of slot {} arrives", key.slot));
                self.counts.doorbells += 1;
                self.table.doorbell(key.slot, Timestamp(now));
                if !self.stage.calm.get() && self.stage.chance(50) {
                    // A poll that ended and was set up again finds the counter still there.
                    let at = self.later();
                    self.events.push((at, Event::Doorbell(key)));
                }
            }
            Event::Socket(_, ending) => self.table.end(key.slot, ending),
            Event::Write(_) | Event::Ended(_) | Event::Wake => {}
        }
    }
}

impl Event {
    /// True for what happens without the shard.
    pub(super) const fn is_kernels(&self) -> bool {
        matches!(self, Self::Write(_))
    }
}
