//! Descriptors that tasks wait for, edge-triggered (epoll(7)).
//!
//! An edge is told once, so what it told is remembered until somebody has met the end of it: a call
//! that would have waited, or one that took less than there was room for.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Executor, current};

/// Descriptors that one wait tells of; the others are told of by the next.
const EVENTS_PER_WAIT: usize = 64;
/// What stands for the executor's own doorbell, which leads to no task.
const DOORBELL: u64 = u64::MAX;

/// All descriptors of an executor.
#[derive(Default)]
pub(super) struct Sources {
    places: RefCell<Vec<Place>>,
    /// Places that are free.
    free: RefCell<Vec<u32>>,
    events: RefCell<Vec<(u64, epoll::EventFlags)>>,
}

#[derive(Default)]
struct Place {
    /// Told apart from earlier descriptors of the place: an event may come late, because a descriptor
    /// that is closed here is open for a moment in a process that is being started.
    generation: u32,
    watched: Option<Rc<Watched>>,
}

/// What is known of one descriptor.
#[derive(Default)]
struct Watched {
    readable: Direction,
    writable: Direction,
    /// No more comes than there is: no edge will tell of what is left.
    is_ending: Cell<bool>,
}

#[derive(Default)]
struct Direction {
    is_ready: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Direction {
    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_ready.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        match &mut *waiting {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waiting = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    fn tell(&self) {
        self.is_ready.set(true);
        let waiting = self.waiting.take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

/// How many events a wait brought.
pub(super) struct Waited(usize);

impl Sources {
    /// Lets a wait end when `doorbell` is rung. It need not be read: each ring is an edge.
    pub(super) fn watch_doorbell(
        epoll: BorrowedFd<'_>,
        doorbell: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(epoll, doorbell, epoll::EventData::new_u64(DOORBELL), flags)?)
    }

    /// Waits for events.
    pub(super) fn wait(
        &self,
        epoll: BorrowedFd<'_>,
        timeout: Option<Duration>,
    ) -> io::Result<Waited> {
        let timeout = timeout.map(|timeout| Timespec {
            // A signed 64-bit number of seconds is longer than any daemon runs.
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut space = [const { MaybeUninit::uninit() }; EVENTS_PER_WAIT];
        let told = match epoll::wait(epoll, &mut space, timeout.as_ref()) {
            Ok((told, _)) => told,
            Err(Errno::INTR) => &mut [],
            Err(error) => return Err(error.into()),
        };
        let mut events = self.events.borrow_mut();
        events.clear();
        events.extend(told.iter().map(|event| (event.data.u64(), event.flags)));
        Ok(Waited(events.len()))
    }

    /// Wakes the tasks that wait for what the last wait told of.
    pub(super) fn wake(&self, waited: Waited) {
        let events = self.events.borrow();
        for &(data, flags) in &events[..waited.0] {
            if let Some(watched) = self.find(data) {
                watched.tell(flags);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn tell(&self, data: u64) {
        if let Some(watched) = self.find(data) {
            watched.tell(epoll::EventFlags::IN);
        }
    }

    fn find(&self, data: u64) -> Option<Rc<Watched>> {
        let [place, generation] = split(data);
        let places = self.places.borrow();
        let place = places.get(place as usize)?;
        place.watched.clone().filter(|_| place.generation == generation)
    }

    fn add(
        &self,
        epoll: BorrowedFd<'_>,
        descriptor: BorrowedFd<'_>,
    ) -> io::Result<(u32, Rc<Watched>)> {
        let mut places = self.places.borrow_mut();
        let index = match self.free.borrow_mut().pop() {
            Some(index) => index,
            None => {
                places.push(Place::default());
                // There are no more descriptors than that.
                u32::try_from(places.len() - 1).expect("descriptors are 31-bit numbers")
            }
        };
        let place = &mut places[index as usize];
        let data = epoll::EventData::new_u64(join(index, place.generation));
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        if let Err(error) = epoll::add(epoll, descriptor, data, flags) {
            self.free.borrow_mut().push(index);
            return Err(error.into());
        }
        let watched = Rc::new(Watched::default());
        place.watched = Some(Rc::clone(&watched));
        Ok((index, watched))
    }

    fn remove(&self, index: u32) {
        let place = &mut self.places.borrow_mut()[index as usize];
        place.generation = place.generation.wrapping_add(1);
        place.watched = None;
        self.free.borrow_mut().push(index);
    }
}

fn join(place: u32, generation: u32) -> u64 {
    u64::from(place) | u64::from(generation) << 32
}

pub(super) fn split(data: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = data.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

impl Watched {
    fn tell(&self, flags: epoll::EventFlags) {
        use epoll::EventFlags as Flags;
        if flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR) {
            self.is_ending.set(true);
        }
        if flags.intersects(Flags::IN | Flags::RDHUP | Flags::HUP | Flags::ERR) {
            self.readable.tell();
        }
        if flags.intersects(Flags::OUT | Flags::HUP | Flags::ERR) {
            self.writable.tell();
        }
    }
}

/// A descriptor that is watched. Its owner drops this and closes the descriptor, in either order.
pub(crate) struct Source {
    executor: Rc<Executor>,
    index: u32,
    watched: Rc<Watched>,
}

impl Source {
    /// Watches `descriptor`, which is non-blocking.
    ///
    /// # Errors
    ///
    /// The system's, for a descriptor that cannot be watched.
    ///
    /// # Panics
    ///
    /// On a thread that our executor does not run.
    pub(crate) fn new(descriptor: impl AsFd) -> io::Result<Self> {
        let executor = current().expect("our executor runs here");
        let (index, watched) = executor.sources.add(executor.epoll.as_fd(), descriptor.as_fd())?;
        Ok(Self { executor, index, watched })
    }

    /// Ready when there may be something to read.
    pub(super) fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        self.watched.readable.poll(context)
    }

    /// Ready when there may be room to write.
    pub(crate) fn poll_writable(&self, context: &Context<'_>) -> Poll<()> {
        self.watched.writable.poll(context)
    }

    /// Ready with the number of bytes that came from `socket`, the descriptor that is watched; 0 at
    /// its end.
    pub(crate) fn poll_receive(
        &self,
        context: &Context<'_>,
        socket: impl AsFd,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let size = target.len();
        // Bounded: each round leaves, or waits.
        loop {
            ready!(self.poll_readable(context));
            match recv(&socket, &mut *target, RecvFlags::DONTWAIT) {
                Ok((count, _)) => {
                    // Less than there was room for: of a stream, all that there was. With its end behind
                    // it, that was told by the same edge.
                    if count < size && !self.watched.is_ending.get() {
                        self.watched.readable.is_ready.set(false);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(Errno::AGAIN) => self.watched.readable.is_ready.set(false),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Ready with the number of bytes that `socket`, the descriptor that is watched, has taken.
    pub(crate) fn poll_send(
        &self,
        context: &Context<'_>,
        socket: impl AsFd,
        source: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Bounded: each round leaves, or waits.
        loop {
            ready!(self.poll_writable(context));
            match send(&socket, source, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(Errno::AGAIN) => self.watched.writable.is_ready.set(false),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

#[cfg(test)]
impl Source {
    pub(super) fn data(&self) -> u64 {
        join(self.index, self.executor.sources.places.borrow()[self.index as usize].generation)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.executor.sources.remove(self.index);
    }
}
