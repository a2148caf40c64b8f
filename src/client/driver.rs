//! The driver: leads while tasks wait, and wakes them at their deadlines.
//!
//! A task cannot block, so somebody has to park on the doorbell for it. That is a thread of the
//! client's own, started by the first task that has to wait and ended with the last clone of the
//! client; or, with feature `tokio`, a task of a runtime. Both repeat [`Shared::drive_turn`] and wait
//! for what it says.
//!
//! The invariant to remember: the driver can lose leadership to a blocked thread, and its office to
//! another driver, at any time. So it arms, disarms and takes rings only under the lock of
//! leadership, after a look whether it still leads.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::lead::{Lead, Leader};
use super::link::{Lost, wait_for};
use super::options::WaitPolicy;
use super::shared::Shared;
use super::slot::lock;
use super::wait::{Pace, Step, soon};
use crate::error::IpcError;
use crate::region::Doorbell;
use crate::sync::{AtomicBool, Ordering::Relaxed};

/// Between two tries of a task to send into a full request ring; nobody rings when space comes free.
const SPACE_RETRY: Duration = Duration::from_micros(200);

/// How others reach a driver.
#[derive(Debug)]
pub(super) struct Control {
    doorbell: Doorbell,
    stop: AtomicBool,
}

impl Control {
    pub(super) fn new() -> Result<Arc<Self>, IpcError> {
        let doorbell = Doorbell::new().map_err(IpcError::io("create", "a doorbell"))?;
        Ok(Arc::new(Self { doorbell, stop: AtomicBool::new(false) }))
    }

    /// The driver looks around as soon as it can.
    pub(super) fn ring(&self) {
        self.doorbell.ring();
    }

    #[cfg(feature = "tokio")]
    pub(super) fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    pub(super) fn stop(&self) {
        // The doorbell's system call publishes the store.
        self.stop.store(true, Relaxed);
        self.ring();
    }
}

/// What a driver does after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Take another turn.
    Again,
    /// Wait for its own doorbell.
    Idle,
    /// Wait for its own doorbell, the response doorbell, which is armed, and the socket.
    Armed,
    /// End.
    Stop,
}

/// A driver in office; steps down when dropped, whatever happened to it.
pub(super) struct Driving {
    pub(super) shared: Arc<Shared>,
    pub(super) control: Arc<Control>,
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.shared.driver_gone(&self.control);
    }
}

impl Driving {
    /// The life of the thread.
    fn run(self) {
        let (shared, control) = (&*self.shared, &*self.control);
        let mut pace = Pace::new(WaitPolicy { park: true, ..shared.wait }, None);
        loop {
            let turn = shared.drive_turn(control, &mut pace);
            let until = shared.next_attention();
            let mut look = false;
            match turn {
                Turn::Again => {}
                Turn::Idle => {
                    let own = PollFd::from_borrowed_fd(control.doorbell.as_fd(), PollFlags::IN);
                    wait_for(&mut [own], until);
                }
                Turn::Armed => {
                    look = shared.link.park(until, Some(control.doorbell.as_fd()));
                }
                Turn::Stop => return,
            }
            if turn != Turn::Again {
                shared.driver_woke(control, look);
                pace.restart();
            }
            shared.attend();
        }
    }
}

impl Shared {
    /// Makes sure that there is a driver. Called with leadership locked.
    pub(super) fn ensure_driver(self: &Arc<Self>, lead: &mut Lead) -> Result<(), IpcError> {
        if lead.driver.is_some() {
            return Ok(());
        }
        let control = Control::new()?;
        let (shared, office) = (Arc::clone(self), Arc::clone(&control));
        // In office only inside the thread: stepping down takes the lock that is held here.
        let life = move || Driving { shared, control: office }.run();
        thread::Builder::new()
            .name("annulus-client".into())
            .spawn(life)
            .map_err(IpcError::io("start", "the client's thread"))?;
        lead.driver = Some(control);
        Ok(())
    }

    /// One bounded piece of the driver's work: delivers what is there; with nothing there polls for
    /// as long as `pace` says, then arms.
    pub(super) fn drive_turn(&self, control: &Control, pace: &mut Pace) -> Turn {
        if control.stop.load(Relaxed) || self.lost().is_some() {
            return Turn::Stop;
        }
        let lead = lock(&self.lead);
        let (leads, tasks) = (lead.is_led_by(control), lead.tasks);
        drop(lead);
        if !leads {
            return Turn::Idle;
        }
        // Not where polling would keep the daemon from answering.
        let polls = tasks > 0 && !self.link.wait_policy().spin.is_zero();
        let mut receiver = lock(&self.receiver);
        loop {
            if self.pump(&mut receiver) > 0 {
                pace.restart();
                self.wake_space_waiters();
                return Turn::Again;
            }
            match pace.step() {
                _ if !polls => break,
                Step::Poll => {}
                Step::LookAtSocket => self.look_at_socket(&mut receiver),
                Step::Park | Step::Expired => break,
            }
        }
        self.link.relieve();
        let lead = lock(&self.lead);
        if !lead.is_led_by(control) {
            return Turn::Idle;
        }
        let flag = self.link.view().client_parked();
        self.link.arm();
        if receiver.is_empty(&self.link) {
            return Turn::Armed;
        }
        flag.disarm();
        Turn::Again
    }

    /// The driver has waited; `look` when the socket wants to be looked at.
    pub(super) fn driver_woke(&self, control: &Control, look: bool) {
        let _ = control.doorbell.take();
        let lead = lock(&self.lead);
        let leads = lead.is_led_by(control);
        if leads {
            self.link.view().client_parked().disarm();
            let _ = self.link.response_doorbell().take();
        }
        drop(lead);
        if leads && look {
            self.look_at_socket(&mut lock(&self.receiver));
        }
    }

    /// When the driver has to look around at the latest.
    pub(super) fn next_attention(&self) -> Option<Instant> {
        let cancels_wait = self.cancels_wait();
        let mut lead = lock(&self.lead);
        let timer = lead.timers.first_key_value().map(|((deadline, _), _)| *deadline);
        let timer = if cancels_wait { soon(timer) } else { timer };
        if lead.space_waiters.is_empty() {
            return timer;
        }
        let retry = *lead.space_retry.get_or_insert_with(|| Instant::now() + SPACE_RETRY);
        Some(timer.map_or(retry, |timer| timer.min(retry)))
    }

    /// Wakes the tasks whose deadline has passed, and those that have waited for space for a while.
    pub(super) fn attend(&self) {
        let lead = lock(&self.lead);
        let (timers, retry) = (!lead.timers.is_empty(), lead.space_retry);
        drop(lead);
        if !timers && retry.is_none() {
            return;
        }
        let now = Instant::now();
        if retry.is_some_and(|retry| retry <= now) {
            self.wake_space_waiters();
        }
        // Bound: the requests in flight; each is taken out.
        while let Some(waker) = self.take_due(now) {
            waker.wake();
        }
    }

    fn take_due(&self, now: Instant) -> Option<Waker> {
        let mut lead = lock(&self.lead);
        let first = lead.timers.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// A driver has ended. Where tasks still wait, another takes its place.
    fn driver_gone(self: &Arc<Self>, control: &Arc<Control>) {
        let mut lead = lock(&self.lead);
        if !lead.is_driver(control) {
            return; // Its successor is in office.
        }
        lead.driver = None;
        let wanted = lead.tasks > 0 && self.lost().is_none();
        if !wanted {
            if lead.leader == Leader::Driver {
                lead.leader = Leader::Nobody;
            }
            return;
        }
        let ensured = self.ensure_driver(&mut lead);
        drop(lead);
        if let Err(error) = ensured {
            tracing::error!(%error, "no driver for the tasks that wait");
            self.lose(Lost::NoDriver);
        }
    }

    /// Puts another driver in office.
    #[cfg(feature = "tokio")]
    pub(super) fn replace_driver(&self, control: &Arc<Control>) {
        let mut lead = lock(&self.lead);
        let old = lead.driver.replace(Arc::clone(control));
        drop(lead);
        if let Some(old) = old {
            old.stop();
        }
        control.ring();
    }
}

impl Lead {
    fn is_driver(&self, control: &Control) -> bool {
        self.driver.as_ref().is_some_and(|driver| std::ptr::eq(&**driver, control))
    }

    fn is_led_by(&self, control: &Control) -> bool {
        self.leader == Leader::Driver && self.is_driver(control)
    }
}
