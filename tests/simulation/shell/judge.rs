//! What the shell holds against the table: who may be closed, and what a round must do.

use annulus::limits::{BYTES_PER_VISIT, FRAMES_PER_VISIT, INTERACTIVE_SIZE_MAX};

use annulus::wire::{Goodbye, Status};

use super::Shell;

/// More bytes than any payload of a run has: a frame that is larger than a visit's budget is taken whole.
const PAYLOAD_MAX: u64 = 64 * 1024;

/// A connection that the coming round must serve.
pub(super) struct Promise {
    slot: usize,
    client: usize,
    /// Where the shard stands in its request ring.
    head: u64,
}

impl Shell {
    /// Only who deserved it is closed.
    pub(super) fn judge_close(
        &mut self,
        client: usize,
        goodbye: Option<Goodbye>,
        now: u64,
        active_at: u64,
    ) {
        let status = goodbye.map(|goodbye| Status::from_wire(goodbye.status));
        self.stage.note(|| format!("client {client} is closed: {status:?}"));
        let actors = self.actors.borrow();
        let who = &actors.clients[client];
        match status {
            None => {
                self.counts.client_left += 1;
                assert!(who.is_gone(), "client {client} was dropped and had not left");
            }
            Some(Status::Fault) => {
                self.counts.fault += 1;
                let fault = goodbye.and_then(|goodbye| goodbye.fault_name());
                assert!(!who.is_honest(), "client {client} is honest and is said to {fault:?}");
            }
            Some(Status::IdleTimeout) => {
                self.counts.idle += 1;
                let timeout = self.plan.idle_timeout_ns.expect("this run has no idle timeout");
                assert!(now - active_at >= timeout, "client {client} was active at {active_at}");
                who.accept_idleness(now, timeout);
            }
            Some(Status::MessageTooLarge) => {
                self.counts.too_large += 1;
                assert!(
                    self.plan.faults.oversized > 0 || !who.is_honest(),
                    "client {client} sent nothing large"
                );
            }
            Some(Status::ShuttingDown) => self.counts.shutdown += 1,
            other => panic!("client {client} was closed with {other:?}"),
        }
    }

    /// The connections that the coming round must serve, those that are polled, have a
    /// request, and wait for nothing. The bound is one round, whatever others have.
    pub(super) fn promised(&self) -> Vec<Promise> {
        let mut actors = self.actors.borrow_mut();
        let mut promised = Vec::new();
        for (slot, seat) in self.seats.iter().enumerate() {
            let Some(index) = seat.client.filter(|_| !seat.closing) else { continue };
            let client = &mut actors.clients[index];
            let slot_number = u32::try_from(slot).unwrap();
            if client.is_polled() && !self.has_doorbell(slot_number) && client.cannot_be_blocked() {
                promised.push(Promise { slot, client: index, head: client.request_head() });
            }
        }
        promised
    }

    /// What the round did was within its bounds, and enough.
    pub(super) fn check_progress(&mut self, now: u64, promised: &[Promise]) {
        for &Promise { slot, client: index, head } in promised {
            let seat = &self.seats[slot];
            let actors = self.actors.borrow();
            let who = &actors.clients[index];
            // Whoever wrote into its ring while the round went on may have taken its request back.
            assert!(
                who.request_head() > head
                    || !who.is_honest()
                    || seat.closing
                    || seat.client != Some(index),
                "client {index} in slot {slot} was polled and not served within one round: {}",
                who.describe()
            );
        }
        let others = self.seats.len() as u64;
        for (slot, occupant) in (0_u32..).zip(&mut self.occupants) {
            let Some(occupant) = occupant else { continue };
            let Some(statistics) = self.table.statistics(slot) else { continue };
            let requests = statistics.requests - occupant.seen.requests;
            let bytes = statistics.request_bytes - occupant.seen.request_bytes;
            // One in its own visit's budget, one request more after each visit to somebody else.
            assert!(
                requests <= u64::from(FRAMES_PER_VISIT) + others,
                "{requests} frames in one round"
            );
            // One beyond the budget, and one before its own visit, served between two others. A visit to the
            // only one that is polled has none before it, and a budget below such a frame.
            let bytes_max = BYTES_PER_VISIT + 2 * PAYLOAD_MAX + others * INTERACTIVE_SIZE_MAX;
            assert!(bytes <= bytes_max, "{bytes} bytes in one round");
            if statistics != occupant.seen {
                occupant.seen = statistics;
                occupant.active_at = now;
            }
        }
    }
}
