//! Who waits on the doorbell for everybody: leader and followers.
//!
//! At any time at most one party *leads*: a blocked thread, or the driver (see [`driver`]). The
//! leader alone parks on the response doorbell, arms and disarms it, and takes its rings. The others
//! wait in their slots. Leadership passes from hand to hand:
//!
//! - a thread that must wait leads if nobody does, or if the driver leads for no waiting task;
//!   otherwise it follows;
//! - a leader whose own wait is over hands on to the oldest follower, else to the driver if tasks
//!   wait, else to nobody;
//! - a follower that stops following for any reason leaves the list. If it was no longer on it, it
//!   has been promoted, and leads or hands on at once. So leadership is never dropped.
//!
//! Pumping is not leading: whoever holds the receiver's lock may deliver frames. A leader that parked
//! cannot miss its own: a frame published after it armed rings the doorbell, and one published
//! before is found by its look under that lock, or was delivered by whoever held the lock earlier.
//!
//! [`driver`]: super::driver

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::driver::Control;
use super::shared::Shared;
use super::slot::{Ready, Slot, lock};
use super::wait::{Pace, Step, soon};

/// Leadership, and what the driver has to attend to.
#[derive(Debug, Default)]
pub(super) struct Lead {
    pub(super) leader: Leader,
    followers: VecDeque<Arc<Slot>>,
    /// Requests whose owner is a task that waits or has waited.
    pub(super) tasks: usize,
    /// Deadlines of those, each with its request's id.
    pub(super) timers: BTreeMap<(Instant, u64), Waker>,
    /// Tasks that wait for space in the request ring.
    pub(super) space_waiters: Vec<Waker>,
    /// When those try again, once the driver has seen them.
    pub(super) space_retry: Option<Instant>,
    pub(super) driver: Option<Arc<Control>>,
}

/// Who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leader {
    #[default]
    Nobody,
    Thread,
    Driver,
}

/// Leadership of this thread; handed on when dropped, even by a panic in somebody's waker.
struct Leading<'s>(&'s Shared);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.hand_on();
    }
}

impl Shared {
    /// Blocks until `slot` is `ready`; false when the deadline falls first.
    pub(super) fn wait_blocking(
        &self,
        slot: &Arc<Slot>,
        deadline: Option<Instant>,
        ready: Ready,
    ) -> bool {
        if slot.is(ready) {
            return true;
        }
        if !self.join(slot) {
            slot.follow(deadline, ready);
            if !self.leave(slot) {
                return slot.is(ready);
            }
        }
        let _leading = Leading(self);
        self.lead_until(slot, deadline, ready)
    }

    /// True when this thread leads from now on; otherwise it follows.
    fn join(&self, slot: &Arc<Slot>) -> bool {
        let mut lead = lock(&self.lead);
        let free = match lead.leader {
            Leader::Nobody => true,
            Leader::Driver => lead.tasks == 0,
            Leader::Thread => false,
        };
        if free {
            lead.leader = Leader::Thread;
        } else {
            lead.followers.push_back(Arc::clone(slot));
        }
        free
    }

    /// Stops following; true when this thread was promoted and leads from now on.
    fn leave(&self, slot: &Arc<Slot>) -> bool {
        let mut lead = lock(&self.lead);
        let place = lead.followers.iter().position(|follower| Arc::ptr_eq(follower, slot));
        match place {
            Some(index) => {
                lead.followers.remove(index);
                false
            }
            None => {
                slot.accept_promotion();
                true
            }
        }
    }

    /// The leading thread passes leadership on.
    fn hand_on(&self) {
        let mut lead = lock(&self.lead);
        debug_assert_eq!(lead.leader, Leader::Thread);
        if let Some(next) = lead.followers.pop_front() {
            next.promote();
        } else if lead.tasks > 0 {
            lead.leader = Leader::Driver;
            lead.ring_driver();
        } else {
            lead.leader = Leader::Nobody;
        }
    }

    /// Pumps for everybody until `slot` is `ready`; false when the deadline falls first.
    fn lead_until(&self, slot: &Slot, deadline: Option<Instant>, ready: Ready) -> bool {
        let mut pace = Pace::new(self.link.wait_policy(), deadline);
        loop {
            let mut receiver = lock(&self.receiver);
            loop {
                let pumped = self.pump(&mut receiver) > 0;
                // Now and then also without a frame: a credit may come from elsewhere.
                if (pumped || pace.is_at_look()) && slot.is(ready) {
                    return true;
                }
                if pumped {
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return false;
                    }
                    pace.restart();
                }
                if pace.is_at_look() {
                    pace.adopt(self.link.wait_policy());
                }
                match pace.step() {
                    Step::Poll => {}
                    Step::LookAtSocket => {
                        self.look_at_socket(&mut receiver);
                        self.cancels_wait();
                    }
                    Step::Expired => return false,
                    Step::Park => break,
                }
            }
            let until = if self.cancels_wait() { soon(deadline) } else { deadline };
            self.link.relieve();
            let flag = self.link.view().client_parked();
            self.link.arm();
            if !receiver.is_empty(&self.link) || slot.is(ready) {
                flag.disarm();
                continue;
            }
            drop(receiver);
            let look = self.link.park(until, None);
            flag.disarm();
            let _ = self.link.response_doorbell().take();
            if look {
                self.look_at_socket(&mut lock(&self.receiver));
            }
        }
    }

    /// Tasks that wait for space try again.
    pub(super) fn wake_space_waiters(&self) {
        let mut lead = lock(&self.lead);
        let waiters = mem::take(&mut lead.space_waiters);
        lead.space_retry = None;
        drop(lead);
        for waker in waiters {
            waker.wake();
        }
    }
}

impl Lead {
    pub(super) fn ring_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.ring();
        }
    }
}
