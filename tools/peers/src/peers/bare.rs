//! What two processes can do with nothing in between: slots in shared memory, and one of three ways
//! to learn that a slot is filled.
//!
//! Sixty-four slots each way, a message in the slot of its stamp. A slot's first word is the stamp,
//! stored last with Release; the reader loads it with Acquire and copies the rest out. No slot is
//! written while it is read: request n+64 is sent after answer n was taken, which the responder
//! published after it had copied request n.

#![allow(unsafe_code, reason = "a futex is 32 bits wide, and the shared words are 64")]

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use annulus::bench::{Launcher, Limit, LimitMeter, Meter as _, Samples, SharedWords, adopt};
use anyhow::{Result, bail, ensure};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::thread::futex;

use super::Peer;
use crate::meter::{self, Figures, Link, Patience, Take, WINDOW, stamp_of};
use crate::scene::{Load, Responder, Scene, Wait, say_ready};

const WORD_SIZE: usize = size_of::<u64>();
const LINE_WORD_COUNT: usize = 64 / WORD_SIZE;
const PAGE_WORD_COUNT: usize = 4096 / WORD_SIZE;

/// Words before the slots: a line with the futex of each direction, two lines apart.
const HEAD_WORD_COUNT: usize = PAGE_WORD_COUNT;
const FUTEX_WORD_STEP: usize = 2 * LINE_WORD_COUNT;
/// Words between the two directions' slots, so that the prefetcher of adjacent lines does not couple
/// them.
const GAP_WORD_COUNT: usize = 2 * LINE_WORD_COUNT;

/// Descriptors that the responder gets: the memory, and the doorbells of requests and responses.
const EVENTFD_KIND: &str = "anon_inode:[eventfd]";

/// How the other side learns that a slot is filled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bare {
    /// It polls the slot.
    CacheLine,
    /// It reads an eventfd.
    Eventfd,
    /// It waits on a futex.
    Futex,
}

impl Peer for Bare {
    fn name(&self) -> &'static str {
        match self {
            Self::CacheLine => "cache-line",
            Self::Eventfd => "eventfd",
            Self::Futex => "futex",
        }
    }

    fn wait(&self, load: Load) -> Result<Wait, &'static str> {
        match (self, load) {
            (Self::CacheLine, Load::Cold) => Err("it cannot sleep"),
            (Self::CacheLine, _) | (Self::Eventfd, Load::Hot) => Ok(Wait::Polls),
            (Self::Eventfd | Self::Futex, _) => Ok(Wait::Sleeps),
        }
    }

    fn respond(&self, scene: &Scene) -> Result<()> {
        let &[memory, ref bells @ ..] = scene.lent.as_slice() else {
            bail!("no memory was lent");
        };
        let words = SharedWords::open(adopt(memory, "/memfd:")?, word_count(scene.size))?;
        let bells = match bells {
            &[request, response] => {
                Some([adopt(request, EVENTFD_KIND)?, adopt(response, EVENTFD_KIND)?])
            }
            _ => None,
        };
        let mut end = End::new(*self, scene, words, bells);
        say_ready()?;
        let mut message = vec![0; scene.size];
        // Until this process is ended.
        loop {
            end.wait(Direction::Request)?;
            while end.take(Direction::Request, &mut message) {
                end.publish(Direction::Response, &message);
            }
            end.ring(Direction::Response)?;
        }
    }

    fn connect(&self, scene: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        let (words, memory) = SharedWords::create(word_count(scene.size))?;
        let flags = match scene.wait {
            Wait::Polls => EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
            Wait::Sleeps => EventfdFlags::CLOEXEC,
        };
        let bells = match self {
            Self::Eventfd => Some([eventfd(0, flags)?, eventfd(0, flags)?]),
            Self::CacheLine | Self::Futex => None,
        };
        let mut lent = vec![memory.as_fd()];
        lent.extend(bells.iter().flatten().map(OwnedFd::as_fd));
        let responder = scene.start_responder(&lent)?;
        let end = End::new(*self, scene, words, bells);
        Ok((Box::new(Client { end, answer: vec![0; scene.size] }), responder))
    }

    /// Two hot cache lines are what the library measures as its limit; so they are here.
    fn measure(&self, scene: &Scene) -> Result<Figures> {
        if (*self, scene.load) == (Self::CacheLine, Load::Hot) {
            let launcher = Launcher::this_executable();
            let mut samples = Samples::new();
            LimitMeter::new(Limit::CacheLine, scene.cores(), launcher)?
                .measure(&scene.burst(), &mut samples)?;
            return Ok(samples.summary().into());
        }
        let (mut link, _responder) = self.connect(scene)?;
        meter::measure(link.as_mut(), scene)
    }
}

struct Client {
    end: End,
    answer: Vec<u8>,
}

impl Link for Client {
    #[inline]
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        self.end.publish(Direction::Request, payload);
        self.end.ring(Direction::Request)?;
        self.end.wait(Direction::Response)?;
        ensure!(self.end.take(Direction::Response, answer), "an answer is not whole");
        Ok(())
    }

    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        self.end.publish(Direction::Request, payload);
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        self.end.ring(Direction::Request)
    }

    #[inline]
    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        self.end.wait(Direction::Response)?;
        while self.end.take(Direction::Response, &mut self.answer) {
            take(&self.answer)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Request,
    Response,
}

/// One process's view of the exchange.
struct End {
    bare: Bare,
    wait: Wait,
    words: SharedWords,
    slot_word_count: usize,
    bells: Option<[OwnedFd; 2]>,
    /// The stamp of the next message to take.
    next: u64,
}

impl End {
    fn new(bare: Bare, scene: &Scene, words: SharedWords, bells: Option<[OwnedFd; 2]>) -> Self {
        let slot_word_count = scene.size / WORD_SIZE;
        Self { bare, wait: scene.wait, words, slot_word_count, bells, next: 1 }
    }

    #[inline]
    fn slot(&self, direction: Direction, stamp: u64) -> &[AtomicU64] {
        #[allow(clippy::cast_possible_truncation, reason = "less than the number of slots")]
        let index = (stamp % WINDOW as u64) as usize;
        let start = HEAD_WORD_COUNT
            + direction as usize * (WINDOW * self.slot_word_count + GAP_WORD_COUNT)
            + index * self.slot_word_count;
        &self.words.words()[start..start + self.slot_word_count]
    }

    /// Fills the slot of the message's stamp from back to front, the stamp last.
    #[inline]
    fn publish(&self, direction: Direction, message: &[u8]) {
        let stamp = stamp_of(message);
        let (first, words) = self.slot(direction, stamp).split_first().expect("a slot has a word");
        for (word, bytes) in words.iter().zip(message[WORD_SIZE..].chunks_exact(WORD_SIZE)).rev() {
            word.store(stamp_of(bytes), Ordering::Relaxed);
        }
        first.store(stamp, Ordering::Release); // Pairs with `End::is_filled`.
    }

    #[inline]
    fn is_filled(&self, direction: Direction) -> bool {
        let slot = self.slot(direction, self.next);
        slot[0].load(Ordering::Acquire) == self.next // Pairs with `End::publish`.
    }

    /// Copies the next message out, if it is there.
    #[inline]
    fn take(&mut self, direction: Direction, message: &mut [u8]) -> bool {
        if !self.is_filled(direction) {
            return false;
        }
        let words = self.slot(direction, self.next).iter();
        for (word, bytes) in words.zip(message.chunks_exact_mut(WORD_SIZE)) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        self.next += 1;
        true
    }

    /// Tells the other side that there is something, or several things.
    #[inline]
    fn ring(&self, direction: Direction) -> Result<()> {
        match (self.bare, &self.bells) {
            (Bare::Eventfd, Some(bells)) => {
                rustix::io::write(&bells[direction as usize], &1_u64.to_ne_bytes())?;
            }
            (Bare::Futex, _) => {
                let word = self.futex(direction);
                word.fetch_add(1, Ordering::Release); // Pairs with the load in `End::wait`.
                futex::wake(word, futex::Flags::empty(), 1)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Waits until the next message is there.
    #[inline]
    fn wait(&self, direction: Direction) -> Result<()> {
        match (self.bare, &self.bells) {
            (Bare::Eventfd, Some(bells)) => {
                self.wait_for_bell(direction, &bells[direction as usize])
            }
            (Bare::Futex, _) => self.wait_for_futex(direction),
            _ => {
                let mut patience = Patience::new();
                while !self.is_filled(direction) {
                    patience.spin()?;
                }
                Ok(())
            }
        }
    }

    /// Reads the eventfd before it looks: what is measured is the descriptor and not the memory.
    fn wait_for_bell(&self, direction: Direction, bell: &OwnedFd) -> Result<()> {
        let mut patience = Patience::new();
        let mut count = [0; WORD_SIZE];
        loop {
            match rustix::io::read(bell, &mut count) {
                Ok(_) if self.is_filled(direction) => return Ok(()),
                // Rung for a message that was taken along with an earlier one.
                Ok(_) => {}
                Err(Errno::AGAIN) if self.wait == Wait::Polls => patience.spin()?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait_for_futex(&self, direction: Direction) -> Result<()> {
        let word = self.futex(direction);
        loop {
            let seen = word.load(Ordering::Acquire); // Pairs with `End::ring`.
            if self.is_filled(direction) {
                return Ok(());
            }
            match futex::wait(word, futex::Flags::empty(), seen, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn futex(&self, direction: Direction) -> &AtomicU32 {
        let word = &self.words.words()[direction as usize * FUTEX_WORD_STEP];
        // SAFETY: `from_ptr` needs, for the borrow of `self`:
        // - a valid pointer, aligned for 32 bits: it is that of a 64-bit word of the mapping;
        // - no access to it that is not atomic, and none of another size: the words before
        //   `HEAD_WORD_COUNT` are reached through this function only, in both processes.
        unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
    }
}

/// Words of the whole region for messages of `size` bytes.
fn word_count(size: usize) -> usize {
    let slots = 2 * WINDOW * (size / WORD_SIZE) + GAP_WORD_COUNT;
    (HEAD_WORD_COUNT + slots).next_multiple_of(PAGE_WORD_COUNT)
}
