//! shmem-ipc: two of its rings, one each way, of items as large as the payload; their memory and
//! eventfds are inherited by the responder.

#![allow(unsafe_code, reason = "shmem-ipc hands out raw pointers: its peer may write at any time")]

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};

use ::shmem_ipc::sharedring::{Receiver, Sender};
use annulus::bench::adopt;
use anyhow::{Result, ensure};

use super::records::Records;
use crate::meter::{Link, Patience, Take, WINDOW};
use crate::scene::{Responder, Scene, Wait, say_ready};

/// Items of a ring, at least: twice what is in flight, so that it is never full.
const CAPACITY: usize = 2 * WINDOW;

pub(crate) struct ShmemIpc;

impl Records for ShmemIpc {
    const NAME: &'static str = "shmem-ipc";

    fn respond_with<const SIZE: usize>(scene: &Scene) -> Result<()> {
        let [requests, responses] = lent_rings(scene)?;
        let [memory, empty, full] = requests;
        let receiver = Receiver::<[u8; SIZE]>::open(CAPACITY, memory, empty, full)?;
        let [memory, empty, full] = responses;
        let sender = Sender::open(CAPACITY, memory, empty, full)?;
        let mut end = End { sender, receiver, wait: scene.wait };
        say_ready()?;
        let mut batch = Vec::with_capacity(CAPACITY);
        // Until this process is ended.
        loop {
            end.receive(&mut batch)?;
            end.send(&batch)?;
        }
    }

    fn connect_with<const SIZE: usize>(scene: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        let sender = Sender::<[u8; SIZE]>::new(CAPACITY)?;
        let receiver = Receiver::<[u8; SIZE]>::new(CAPACITY)?;
        let lent: [BorrowedFd<'_>; 6] = [
            sender.memfd().as_file().as_fd(),
            sender.empty_signal().as_fd(),
            sender.full_signal().as_fd(),
            receiver.memfd().as_file().as_fd(),
            receiver.empty_signal().as_fd(),
            receiver.full_signal().as_fd(),
        ];
        let responder = scene.start_responder(&lent)?;
        let end = End { sender, receiver, wait: scene.wait };
        let unsent = Vec::with_capacity(CAPACITY);
        let received = Vec::with_capacity(CAPACITY);
        Ok((Box::new(Client { end, unsent, received }), responder))
    }
}

/// Memory, empty signal and full signal of the request ring and of the response ring.
fn lent_rings(scene: &Scene) -> Result<[[File; 3]; 2]> {
    let ring = |numbers: &[i32]| -> Result<[File; 3]> {
        let eventfd = "anon_inode:[eventfd]";
        Ok([
            adopt(numbers[0], "/memfd:")?.into(),
            adopt(numbers[1], eventfd)?.into(),
            adopt(numbers[2], eventfd)?.into(),
        ])
    };
    ensure!(scene.lent.len() == 6, "{} descriptors were lent", scene.lent.len());
    Ok([ring(&scene.lent[..3])?, ring(&scene.lent[3..])?])
}

/// One process's sender and receiver.
struct End<const SIZE: usize> {
    sender: Sender<[u8; SIZE]>,
    receiver: Receiver<[u8; SIZE]>,
    wait: Wait,
}

impl<const SIZE: usize> End<SIZE> {
    /// Sends all items; the ring has room for them. Nobody sleeps on the signal of a polled ring, so
    /// it is not rung there.
    #[inline]
    fn send(&mut self, items: &[[u8; SIZE]]) -> Result<()> {
        let mut sent_count = 0;
        let mut patience = Patience::new();
        // A ring ends somewhere: two turns at most, while there is room.
        while sent_count < items.len() {
            let unsent = &items[sent_count..];
            let write = |target: *mut [u8; SIZE], room: usize| {
                let count = unsent.len().min(room);
                // SAFETY: `unsent` has `count` items, `target` has room for `count` (what this
                // closure is told), and a mapping of the ring overlaps no slice of ours.
                unsafe { target.copy_from_nonoverlapping(unsent.as_ptr(), count) };
                sent_count += count;
                count
            };
            match self.wait {
                Wait::Polls => drop(self.sender.sender_mut().send(write)?),
                Wait::Sleeps => drop(self.sender.send_raw(write)?),
            }
            if sent_count < items.len() {
                patience.spin()?;
            }
        }
        Ok(())
    }

    /// Puts everything that is there into `items`, at least one.
    #[inline]
    fn receive(&mut self, items: &mut Vec<[u8; SIZE]>) -> Result<()> {
        items.clear();
        match self.wait {
            Wait::Polls => {
                let mut patience = Patience::new();
                while self.receiver.receiver_mut().read_count()? == 0 {
                    patience.spin()?;
                }
            }
            Wait::Sleeps => drop(self.receiver.block_until_readable()?),
        }
        let read = |source: *const [u8; SIZE], count: usize| {
            items.reserve(count);
            // SAFETY: `source` has `count` items (what this closure is told), the spare capacity has
            // room for them (just reserved) and overlaps no mapping; then that many are initialised.
            unsafe {
                source.copy_to_nonoverlapping(items.as_mut_ptr(), count);
                items.set_len(count);
            }
            count
        };
        match self.wait {
            Wait::Polls => drop(self.receiver.receiver_mut().recv(read)?),
            Wait::Sleeps => drop(self.receiver.receive_raw(read)?),
        }
        Ok(())
    }
}

struct Client<const SIZE: usize> {
    end: End<SIZE>,
    unsent: Vec<[u8; SIZE]>,
    received: Vec<[u8; SIZE]>,
}

impl<const SIZE: usize> Link for Client<SIZE> {
    #[inline]
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        let payload: &[u8; SIZE] = payload.first_chunk().expect("a payload is an item");
        self.end.send(std::slice::from_ref(payload))?;
        self.end.receive(&mut self.received)?;
        answer.copy_from_slice(&self.received[0]);
        Ok(())
    }

    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        self.unsent.push(*payload.first_chunk().expect("a payload is an item"));
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        self.end.send(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        self.end.receive(&mut self.received)?;
        self.received.iter().try_for_each(|item| take(item))
    }
}
