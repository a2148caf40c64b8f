//! The order of service: who is polled, who comes first, and for how long.

use std::time::Duration;

use super::slot::State;
use super::work::Work;
use super::{Output, Table, Turn};
use crate::connection::visit::{Budget, Shared, Visit};
use crate::connection::{Clock, Connection, Ending, Timestamp};
use crate::limits::{
    BYTES_PER_LONE_VISIT, BYTES_PER_SHORT_VISIT, BYTES_PER_VISIT, FRAMES_PER_VISIT,
    INTERACTIVE_PER_VISIT, INTERACTIVE_SIZE_MAX, MODELLED,
};
use crate::link::{Forwarded, ShardEnd};
use crate::region::RegionMemory;
use crate::sync::sound;

/// Looks that must find nothing before a connection is parked, however long ago its last frame is.
///
/// With a thousand busy connections a turn takes longer than the spin budget, and time alone would park
/// each of them after every frame: 1,000 × 1 KiB ran at 2.9 M/s, most of the client's time ringing.
const QUIET_LOOKS_MIN: u32 = if MODELLED { 1 } else { 32 };
/// How many slots ahead of a visit the lines of the next request and of its answer are asked for: a
/// thousand connections do not fit a core's own cache. Of long frames the rest is asked for one slot
/// ahead, or more lines would be under way than a core keeps track of.
const PREFETCH_DISTANCE: usize = 4;
/// How long a connection that found no buffer, or no room with a worker, waits before it tries again.
/// Workers wait as long for a buffer.
const STARVED_RETRY: Duration = Duration::from_millis(1);

/// How often a visit looks for a request where only one connection is polled. What a visit makes ready for a
/// request takes 120 instructions, and so it is done while nobody waits: a 64-byte round trip 161 → 141 ns,
/// and more looks gain no more.
const LOOKS_ALONE: u32 = if MODELLED { 1 } else { 4 };

impl<M: RegionMemory> Table<M> {
    /// True between two turns of one round: some of the hot connections are still to be visited.
    #[must_use]
    pub const fn is_in_round(&self) -> bool {
        self.round_at > 0
    }

    /// News from workers, then a part of a round, in which every hot connection is visited once: up to
    /// [`FRAMES_PER_TURN`](crate::limits::FRAMES_PER_TURN) and
    /// [`BYTES_PER_TURN`](crate::limits::BYTES_PER_TURN) and a visit, so that the shell hears of doorbells meanwhile.
    ///
    /// A visit takes no more than its budget, which is deficit round robin with frames too large for a
    /// budget taken whole. After each visit to a connection with a backlog come the *interactive* ones,
    /// as the new flows of fq_codel (RFC 8290 §4.2) come before the old: who had no more than one small
    /// request when it was last visited, and who has just become hot; both only if it was served little
    /// lately or has asked for one thing at a time for several visits. Each of these waits for its answer before it
    /// goes on, so it cannot take more than a frame each time; and there are at most
    /// [`INTERACTIVE_PER_VISIT`] of those, so a backlog is worked off whatever they do.
    pub fn turn(&mut self, now: Timestamp, clock: &dyn Clock) -> Turn {
        let mut busy = self.take_news(now);
        if self.starved_until().is_some_and(|until| now >= until) {
            self.unpark_starved(now);
        }
        if !self.untold.is_empty() {
            self.tell_workers();
        }
        let before = self.work;
        // Bounded: each step either moves on or makes the list shorter.
        while let Some(&slot) = self.hot.get(self.round_at) {
            if self.round_at > 0 && !sound("a turn visits every polled connection") {
                break;
            }
            if let Some(&ahead) = self.hot.get(self.round_at + PREFETCH_DISTANCE) {
                self.slots[ahead as usize].touch();
            }
            if let Some(&next) = self.hot.get(self.round_at + 1) {
                self.slots[next as usize].touch_rest();
            }
            match self.visit(slot, now, clock) {
                Visited::Busy => busy = true,
                Visited::Quiet => {}
                Visited::Cooled => {
                    self.hot.swap_remove(self.round_at);
                    let entry = &mut self.slots[slot as usize];
                    entry.hot = false;
                    self.asking_count -= usize::from(std::mem::take(&mut entry.asked));
                    continue;
                }
            }
            self.round_at += 1;
            if self.slots[slot as usize].bulk {
                self.serve_interactive(now, clock);
            }
            if self.work.is_much_since(before) && self.round_at < self.hot.len() {
                return Turn::Busy;
            }
        }
        self.round_at = 0;
        if busy {
            // What was done may have given a buffer back.
            self.unpark_starved(now);
        }
        match (busy, self.hot.is_empty() && self.untold.is_empty()) {
            (true, _) => Turn::Busy,
            (false, false) => Turn::Polling,
            (false, true) => {
                // What was forwarded since the last news gave its buffers back.
                self.show_leases();
                self.metrics().activity.parks_total.increment();
                Turn::Parked
            }
        }
    }

    /// Connections that are polled.
    #[must_use]
    pub fn hot_count(&self) -> usize {
        self.hot.len()
    }

    /// Those of them whose clients have asked something, and not only get a worker's replies.
    #[must_use]
    pub fn asking_count(&self) -> usize {
        self.asking_count
    }

    /// True when a turn would find something to do: looked at once more after the shard has announced
    /// that it parks.
    #[must_use]
    pub fn has_news(&self) -> bool {
        // After a turn that found nothing, only `close_idle` makes a connection hot.
        !self.hot.is_empty() || self.workers_have_news()
    }

    fn workers_have_news(&self) -> bool {
        self.options.links.iter().any(ShardEnd::has_news)
    }

    /// When the shard must turn again although nothing woke it: some connection waits for a buffer or
    /// for room with a worker.
    #[inline]
    #[must_use]
    pub fn starved_until(&self) -> Option<Timestamp> {
        let waits = !self.starved.is_empty() && sound("who waits for a worker tries again");
        waits.then_some(self.retry_starved_at)
    }

    /// Polls `slot` from now on.
    pub(super) fn unpark(&mut self, slot: u32, now: Timestamp) {
        let entry = &mut self.slots[slot as usize];
        if !matches!(entry.state, State::Serving(_)) {
            return;
        }
        entry.quiet_since = now;
        self.asking_count += usize::from(!std::mem::replace(&mut entry.asked, true));
        if !entry.hot {
            entry.warm(self.beside, now);
            self.hot.push(slot);
            if !entry.bulk {
                self.list(slot);
            }
        }
    }

    /// True when `slot` is looked at between any two visits to others.
    #[cfg(test)]
    pub(in crate::connection) fn is_interactive(&self, slot: u32) -> bool {
        let entry = &self.slots[slot as usize];
        entry.listed && !entry.bulk
    }

    /// Counts `slot` among the interactive from now on.
    #[inline]
    fn list(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if !entry.listed {
            entry.listed = true;
            // Note: cannot grow: each slot is in the list at most once.
            self.interactive.push(slot);
        }
    }

    pub(super) fn unpark_all(&mut self, now: Timestamp) {
        for slot in 0..self.slots_used() {
            self.unpark(slot, now);
        }
    }

    /// Makes every slot hot for which a worker has published something.
    fn take_news(&mut self, now: Timestamp) -> bool {
        if !self.workers_have_news() {
            return false;
        }
        let Self { options, slots, hot, interactive, beside, .. } = self;
        for link in &options.links {
            link.take_news(|index| {
                let entry = &mut slots[index as usize];
                if !entry.hot {
                    // Only requests are polled for: a worker tells of each reply.
                    entry.quiet_since = Timestamp::default();
                    entry.warm(*beside, now);
                    hot.push(index);
                    if !entry.bulk && !entry.listed {
                        entry.listed = true;
                        interactive.push(index);
                    }
                }
            });
        }
        self.unpark_starved(now);
        self.show_leases();
        true
    }

    /// Polls again who waits for a buffer or a worker.
    fn unpark_starved(&mut self, now: Timestamp) {
        // Bounded: each slot is in the list at most once.
        while let Some(slot) = self.starved.pop() {
            self.slots[slot as usize].starved = false;
            self.unpark(slot, now);
        }
    }

    /// Serves one request each of some interactive connections that have one.
    fn serve_interactive(&mut self, now: Timestamp, clock: &dyn Clock) {
        let budget = Budget { frames: 1, bytes: BYTES_PER_SHORT_VISIT, looks: 1 };
        for _ in 0..INTERACTIVE_PER_VISIT.min(self.interactive.len()) {
            if self.interactive_at >= self.interactive.len() {
                self.interactive_at = 0;
            }
            let Some(&slot) = self.interactive.get(self.interactive_at) else { return };
            let entry = &mut self.slots[slot as usize];
            if !entry.hot || entry.bulk {
                entry.listed = false;
                self.interactive.swap_remove(self.interactive_at);
                continue;
            }
            self.interactive_at += 1;
            if entry.has_request() {
                self.serve(slot, budget, now, clock);
            }
        }
    }

    /// Visits one hot slot: replies first, they are older than any request.
    fn visit(&mut self, slot: u32, now: Timestamp, clock: &dyn Clock) -> Visited {
        let budget = self.budget(slot);
        match &self.slots[slot as usize].state {
            State::Serving(_) => match self.serve(slot, budget, now, clock) {
                None => Visited::Busy,
                Some(idle) => self.visit_quiet(slot, idle, budget.looks, now),
            },
            _ => self.visit_closing(slot),
        }
    }

    /// What a visit to `slot` in the round may take.
    #[inline]
    pub(in crate::connection) fn budget(&self, slot: u32) -> Budget {
        let entry = &self.slots[slot as usize];
        let (bytes, looks) = match &entry.state {
            // Who asks nothing, and only gets a worker's replies, is not waited for.
            State::Serving(connection) if self.is_alone() && entry.asked => {
                let ring = connection.memory.view().request_ring();
                (bytes_alone(ring.capacity()), LOOKS_ALONE)
            }
            _ if self.interactive.is_empty() => (BYTES_PER_VISIT, 1),
            // Nobody interactive waits for longer than for a short visit.
            _ => (BYTES_PER_SHORT_VISIT, 1),
        };
        Budget { frames: FRAMES_PER_VISIT, bytes, looks }
    }

    /// True when one connection is polled, from a core of the shard's own.
    #[inline]
    fn is_alone(&self) -> bool {
        self.hot.len() == 1 && self.beside.is_none()
    }

    /// Does what there is to do for a slot that is serving; gives what stood in the way when there
    /// was nothing.
    #[inline]
    fn serve(
        &mut self,
        slot: u32,
        mut budget: Budget,
        now: Timestamp,
        clock: &dyn Clock,
    ) -> Option<Visit> {
        let entry = &mut self.slots[slot as usize];
        let State::Serving(connection) = &mut entry.state else { return None };
        let Connection { memory, ends } = connection;
        let view = memory.view();
        let may_have_request = budget.looks > 1 || !ends.requests.is_empty(view.request_ring());
        if !may_have_request && !ends.has_asked_workers() {
            entry.blocked = false;
            return Some(Visit::Quiet);
        }
        let mut shared = Shared {
            routes: &self.options.routes,
            codecs: &self.options.codecs,
            links: &mut self.options.links,
            in_flight: &mut self.in_flight,
            pool: &self.options.pool,
            scratch: &mut self.scratch,
            metrics: self.options.metrics.shard(self.options.shard_index),
            clock,
            draining: self.draining,
        };
        let (before, in_flight) = (Work::of(&ends.statistics), ends.in_flight.count());
        let published = ends.responses.tail();
        let replies = ends.forward_replies(view, slot, &mut shared, now);
        let has_ended = ends.in_flight.count() < in_flight;
        if replies != Visit::Quiet {
            // Its client may have to be rung.
            budget.looks = 1;
        }
        let requests = match replies {
            Visit::End(_) => replies,
            _ if !may_have_request => Visit::Quiet,
            _ => ends.visit(memory, slot, &mut shared, now, budget),
        };
        if let Visit::End(ending) = requests {
            self.close(slot, ending);
            // Its goodbye waits in the outputs, and its slot for the workers.
            return None;
        }
        let done = Work::of(&ends.statistics).since(before);
        self.work = self.work.plus(done);
        let busy = replies == Visit::Busy || requests == Visit::Busy;
        entry.blocked = replies == Visit::BlockedOnClient || requests == Visit::BlockedOnClient;
        if busy {
            // Who has asked, or was answered in full, may soon ask again. Amid a stream nobody does, and
            // polling between its chunks would keep a core from those who make them.
            if requests == Visit::Busy || has_ended {
                entry.quiet_since = now;
            }
            if requests == Visit::Busy {
                self.asking_count += usize::from(!std::mem::replace(&mut entry.asked, true));
            }
            entry.quiet_looks = 0;
            entry.recent.add(done, now);
            // Where the budget took no more than one, another that waits is more than one.
            let is_cut = budget.frames == 1 || done.bytes >= budget.bytes;
            let single = done.frames <= 1
                && done.bytes <= INTERACTIVE_SIZE_MAX
                && !(is_cut && ends.has_request(view.request_ring()));
            entry.single_visits = if single { entry.single_visits.saturating_add(1) } else { 0 };
            entry.bulk = !single || !entry.recent.may_go_first(entry.single_visits, now);
            let interactive = !entry.bulk;
            // A request that is with a worker now is nothing for its client to wake up for.
            let has_answers = ends.responses.tail() != published;
            if has_answers && view.client_parked().take() {
                self.outputs.push(Output::Ring { slot });
                self.metrics().activity.doorbells_sent_total.increment();
            } else {
                self.metrics().activity.doorbells_suppressed_total.increment();
            }
            if interactive {
                self.list(slot);
            }
            return None;
        }
        if entry.blocked && view.client_parked().take() {
            // There may be new padding in its ring, which only a client that looks can free.
            self.outputs.push(Output::Ring { slot });
            self.metrics().activity.doorbells_sent_total.increment();
        }
        Some(requests)
    }

    /// Nothing was done for `slot`, at which a visit looked so many times: decides whether it stays hot.
    fn visit_quiet(&mut self, slot: u32, requests: Visit, looks: u32, now: Timestamp) -> Visited {
        let entry = &mut self.slots[slot as usize];
        let State::Serving(connection) = &mut entry.state else { return Visited::Cooled };
        let is_done = connection.ends.in_flight.count() == 0 || !sound("a drain waits for answers");
        if self.draining && is_done && requests == Visit::Quiet {
            self.close(slot, Ending::Shutdown);
            return Visited::Busy;
        }
        entry.quiet_looks = entry.quiet_looks.saturating_add(looks);
        let polls = entry.quiet_looks < QUIET_LOOKS_MIN
            || now.since(entry.quiet_since) < self.options.spin_ns;
        if polls && self.beside.is_none() {
            if entry.bulk && entry.recent.is_light(now) {
                // It was busy and has been quiet for long enough to go first again.
                entry.bulk = false;
                self.list(slot);
            }
            return Visited::Quiet;
        }
        if requests == Visit::BlockedOnWorker {
            if self.starved.is_empty() {
                self.retry_starved_at = now.after(STARVED_RETRY);
            }
            if !entry.starved {
                entry.starved = true;
                self.starved.push(slot);
            }
            // One whose replies wait for space as well has to hear from its client, too.
            if !entry.blocked {
                self.metrics().activity.backpressure_total.increment();
                return Visited::Cooled;
            }
        }
        let view = connection.memory.view();
        view.daemon_parked().arm();
        if entry.blocked {
            view.daemon_blocked().arm();
        }
        // The last look: whoever published or freed something before it could see the flag does not
        // ring. A blocked connection waits for space only, whatever its request ring holds.
        let found = if entry.blocked {
            !connection.ends.responses.is_unmoved(view.response_ring())
        } else {
            !connection.ends.requests.is_empty(view.request_ring())
                && sound("last look for a request")
        };
        if found {
            view.daemon_parked().disarm();
            view.daemon_blocked().disarm();
            entry.quiet_since = now;
            return Visited::Quiet;
        }
        if entry.asked {
            self.company.join(slot, view.client_core().load());
        }
        if entry.blocked {
            self.metrics().activity.backpressure_total.increment();
        }
        Visited::Cooled
    }

    /// A closed connection's workers may still have something to drop.
    fn visit_closing(&mut self, slot: u32) -> Visited {
        let State::Closing(closing) = &mut self.slots[slot as usize].state else {
            return Visited::Cooled;
        };
        for (worker, link) in self.options.links.iter_mut().enumerate() {
            // Bounded: a reply ring holds few frames, and the worker adds none for a connection
            // that it knows to be closed.
            loop {
                match link.discard(slot as usize) {
                    Forwarded::Nothing => break,
                    Forwarded::Closed => closing.unacknowledged &= !(1 << worker),
                    _ => {}
                }
            }
        }
        self.free_if_done(slot);
        Visited::Cooled
    }
}

/// What a visit to the only connection that is polled may take, in bytes, from a ring of so many: its client goes
/// on when a visit has given space back.
#[inline]
fn bytes_alone(ring_capacity: u64) -> u64 {
    (ring_capacity / 4).clamp(BYTES_PER_VISIT, BYTES_PER_LONE_VISIT)
}

/// What a visit means for the hot list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Visited {
    Busy,
    Quiet,
    /// Not polled any more.
    Cooled,
}

#[cfg(all(test, not(annulus_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_lone_visit_takes_a_quarter_of_its_ring_within_bounds() {
        let kib = [4, 16, 32, 64, 128, 1 << 14].map(|kib| bytes_alone(kib * 1024) / 1024);
        assert_eq!(kib, [8, 8, 8, 16, 32, 32]);
    }
}
