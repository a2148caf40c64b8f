//! What all clones of a client share: the link, the requests in flight, their credits, and the pump.
//!
//! The invariant to remember, the order of locks: receiver → table, receiver → lead → slot; the
//! sender's, the table's and a slot's are innermost. Nobody takes the receiver while holding another.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};

use super::connection::answer_error;
use super::handshake;
use super::lead::Lead;
use super::link::{Link, Lost, Receiver, Sender};
use super::options::{ConnectOptions, WaitPolicy};
use super::slot::{End, Slot, lock};
use crate::error::IpcError;
use crate::protocol::{Codec, CodecId};
use crate::sync::{AtomicBool, AtomicU64, Ordering::Relaxed};
use crate::wire::{FrameHeader, Goodbye, HeaderWords};

/// Frames that one turn of the pump takes before it looks at its own affairs.
const PUMP_FRAMES_MAX: u32 = 256;

/// A connection that many threads and tasks use.
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) wait: WaitPolicy,
    pub(super) codec_id: CodecId,
    pub(super) codec: Option<Arc<dyn Codec>>,
    pub(super) lead: Mutex<Lead>,
    pub(super) receiver: Mutex<Receiver>,
    sender: Mutex<Sender>,
    table: Mutex<Table>,
    /// Set before the table is emptied, see [`Shared::lose`].
    lost: OnceLock<Lost>,
    next_id: AtomicU64,
    /// Cancels wait for space in the request ring.
    cancels_wait: AtomicBool,
}

/// Requests and credits.
struct Table {
    /// Requests that hold a credit and are, or are about to be, published. `None`: abandoned.
    slots: HashMap<u64, Option<Arc<Slot>>>,
    /// Credits that nobody holds.
    credits: u32,
    /// Owners that wait for a credit, oldest first; empty while there are credits.
    queue: VecDeque<Arc<Slot>>,
    /// The daemon takes no new requests.
    goodbye: Option<Goodbye>,
}

impl Shared {
    pub(super) fn connect(options: &ConnectOptions) -> Result<Arc<Self>, IpcError> {
        let codec = options.resolved_codec();
        let link = handshake::open(options)?;
        let (sender, receiver) = link.ends();
        let table = Table {
            slots: HashMap::new(),
            credits: link.agreed().in_flight_max,
            queue: VecDeque::new(),
            goodbye: None,
        };
        Ok(Arc::new(Self {
            link,
            wait: options.wait,
            codec_id: options.codec_id,
            codec,
            lead: Mutex::default(),
            receiver: Mutex::new(receiver),
            sender: Mutex::new(sender),
            table: Mutex::new(table),
            lost: OnceLock::new(),
            next_id: AtomicU64::new(1),
            cancels_wait: AtomicBool::new(false),
        }))
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    /// Why the connection is over, if it is.
    pub(super) fn lost(&self) -> Option<&Lost> {
        self.lost.get()
    }

    pub(super) fn check_open(&self) -> Result<(), IpcError> {
        match self.lost() {
            None => Ok(()),
            Some(lost) => Err(lost.error()),
        }
    }

    /// Looks around, then as [`Shared::check_open`]; a daemon that said goodbye counts as gone.
    pub(super) fn check_alive(&self) -> Result<(), IpcError> {
        self.try_look_around();
        self.check_open()?;
        match &lock(&self.table).goodbye {
            Some(goodbye) => Err(IpcError::from_goodbye(Some(goodbye))),
            None => Ok(()),
        }
    }

    // Credits and the table.

    /// A credit for `slot`: true when it is here, false when the slot is queued for one.
    pub(super) fn request_credit(&self, slot: &Arc<Slot>) -> Result<bool, IpcError> {
        let mut table = lock(&self.table);
        self.check_open()?;
        if let Some(goodbye) = &table.goodbye {
            return Err(IpcError::from_goodbye(Some(goodbye)));
        }
        if table.credits > 0 {
            table.credits -= 1;
            return Ok(true);
        }
        table.queue.push_back(Arc::clone(slot));
        Ok(false)
    }

    /// The owner of a queued slot gives up; whoever pumped may have granted it just now.
    pub(super) fn leave_queue(&self, slot: &Arc<Slot>) {
        let mut table = lock(&self.table);
        let place = table.queue.iter().position(|queued| Arc::ptr_eq(queued, slot));
        match place {
            Some(index) => drop(table.queue.remove(index)),
            None => {
                drop(table);
                self.return_credit();
            }
        }
    }

    /// From here on, frames that answer `id` find `slot`. Its owner has a credit.
    pub(super) fn register(&self, id: u64, slot: &Arc<Slot>) -> Result<(), IpcError> {
        let mut table = lock(&self.table);
        self.check_open()?;
        table.slots.insert(id, Some(Arc::clone(slot)));
        Ok(())
    }

    /// A registered request that will not be published after all.
    pub(super) fn unregister(&self, id: u64) {
        if lock(&self.table).slots.remove(&id).is_some() {
            self.return_credit();
        }
    }

    /// A credit that was not used goes to the next in the queue.
    pub(super) fn return_credit(&self) {
        let mut table = lock(&self.table);
        let next = table.free_credit();
        drop(table);
        if let Some(next) = next {
            next.grant();
            // Its owner may be the leader, parked where only the doorbell is heard.
            self.link.response_doorbell().ring();
        }
    }

    /// Nobody waits for a published request any more: cancels it and swallows its frames.
    pub(super) fn abandon(&self, id: u64) {
        let mut table = lock(&self.table);
        let Some(entry) = table.slots.get_mut(&id) else {
            return; // It has ended already.
        };
        let slot = entry.take();
        drop(table);
        drop(slot);
        let mut sender = lock(&self.sender);
        let done = sender.cancel(&self.link, id);
        let waits = sender.has_leftovers();
        self.cancels_wait.store(waits, Relaxed);
        drop(sender);
        if let Err(fault) = done {
            self.lose(fault.into());
        } else if waits {
            // Whoever is parked should try again soon, for nobody rings when space comes free.
            self.link.response_doorbell().ring();
            lock(&self.lead).ring_driver();
        }
    }

    // Sending.

    /// Publishes a registered request and rings the daemon; false when the ring is full.
    pub(super) fn publish(&self, header: FrameHeader, payload: &[u8]) -> Result<bool, IpcError> {
        self.check_open()?;
        let mut sender = lock(&self.sender);
        let published = sender.publish(&self.link, header, payload);
        drop(sender);
        match published {
            Ok(true) => self.link.notify(),
            Ok(false) => {}
            Err(fault) => return Err(self.lose(fault.into())),
        }
        Ok(published.is_ok_and(|published| published))
    }

    /// Sends cancels that wait for space and gives pages of a large request back. False when
    /// cancels still wait.
    pub(super) fn tidy(&self) -> bool {
        let mut sender = lock(&self.sender);
        let sent = sender.tidy(&self.link);
        self.cancels_wait.store(matches!(sent, Ok(false)), Relaxed);
        drop(sender);
        self.link.notify();
        sent.unwrap_or_else(|fault| {
            self.lose(fault.into());
            true
        })
    }

    /// True when cancels wait for space: whoever parks should not park for long.
    pub(super) fn cancels_wait(&self) -> bool {
        self.cancels_wait.load(Relaxed) && !self.tidy()
    }

    // Receiving.

    /// Hands what has arrived to its owners; gives the number of frames, bounded.
    pub(super) fn pump(&self, receiver: &mut Receiver) -> u32 {
        let mut count = 0;
        while count < PUMP_FRAMES_MAX {
            match self.pump_one(receiver) {
                Ok(true) => count += 1,
                Ok(false) => break,
                Err(lost) => {
                    self.lose(lost);
                    break;
                }
            }
        }
        if count > 0 {
            // Here, because the leader may be parked while somebody else pumps.
            self.link.relieve();
        }
        count
    }

    fn pump_one(&self, receiver: &mut Receiver) -> Result<bool, Lost> {
        if self.lost().is_some() {
            return Ok(false);
        }
        let Some(header) = receiver.poll(&self.link)? else {
            return Ok(false);
        };
        let words = HeaderWords::from(&header);
        let mut table = lock(&self.table);
        let (owner, next) = if header.is_last() {
            match table.slots.remove(&header.request_id) {
                Some(owner) => (owner, table.free_credit()),
                None => (None, None),
            }
        } else {
            (table.slots.get(&header.request_id).cloned().flatten(), None)
        };
        drop(table);
        let delivered = match owner {
            Some(owner) => {
                let ring = self.link.view().response_ring();
                owner.deliver(&header, |target| receiver.take(&self.link, ring, words, target))
            }
            None => {
                receiver.skip(&self.link, words);
                Ok(())
            }
        };
        if let Some(next) = next {
            next.grant();
        }
        delivered?;
        Ok(true)
    }

    /// Pumps if nobody else does at the moment; gives the number of frames.
    pub(super) fn try_pump(&self) -> u32 {
        let count = self.try_receiver().map_or(0, |mut receiver| self.pump(&mut receiver));
        if count == 0 {
            // There may have been padding to skip, which frees space too.
            self.link.relieve();
        }
        count
    }

    /// Pumps and looks at the socket if nobody else does at the moment.
    pub(super) fn try_look_around(&self) {
        if let Some(mut receiver) = self.try_receiver() {
            self.pump(&mut receiver);
            self.look_at_socket(&mut receiver);
        }
    }

    fn try_receiver(&self) -> Option<MutexGuard<'_, Receiver>> {
        match self.receiver.try_lock() {
            Ok(receiver) => Some(receiver),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Looks whether the daemon has hung up. What it published before that is delivered first.
    pub(super) fn look_at_socket(&self, receiver: &mut Receiver) {
        self.link.relieve();
        let ended = receiver.look_at_socket(&self.link);
        let goodbye = receiver.goodbye();
        if !ended {
            if goodbye.is_some() {
                lock(&self.table).goodbye = goodbye;
            }
            return;
        }
        // Bound: what a ring can hold, so that a daemon that only closed its socket cannot hold us.
        let frames_max = self.link.response_frames_max();
        let mut frames = 0;
        while frames < frames_max {
            match self.pump(receiver) {
                0 => break,
                count => frames += u64::from(count),
            }
        }
        self.lose(Lost::HungUp(goodbye));
    }

    /// The connection is over: every owner is told, nobody waits on. Reconnecting belongs here, in
    /// place of telling the owners whose requests can be sent again.
    ///
    /// Gives the error of the first loss.
    pub(super) fn lose(&self, lost: Lost) -> IpcError {
        // Set before the table is emptied: whoever registers later sees it under the table's lock.
        let lost = *self.lost.get_or_init(|| lost);
        let mut table = lock(&self.table);
        let slots = mem::take(&mut table.slots);
        let queue = mem::take(&mut table.queue);
        drop(table);
        if !slots.is_empty() || !queue.is_empty() {
            tracing::debug!(in_flight = slots.len(), queued = queue.len(), "connection lost");
        }
        for slot in slots.into_values().flatten().chain(queue) {
            slot.lose(lost);
        }
        // A leader may be parked where only the doorbell is heard.
        self.link.response_doorbell().ring();
        lock(&self.lead).ring_driver();
        self.wake_space_waiters();
        lost.error()
    }
}

impl Table {
    /// A credit came back: the next in the queue has it, or nobody.
    fn free_credit(&mut self) -> Option<Arc<Slot>> {
        let next = self.queue.pop_front();
        if next.is_none() {
            self.credits += 1;
        }
        next
    }
}

/// What an owner makes of its request's end.
pub(super) fn end_error(end: &End) -> Option<IpcError> {
    match end {
        End::Answered(status, detail) => answer_error(*status, detail),
        End::Lost(lost) => Some(lost.error()),
    }
}
