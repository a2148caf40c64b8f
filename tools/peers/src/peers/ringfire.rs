//! ringfire: two of its rings, one each way, of records as large as the payload.

use ::ringfire::{FutexWait, RingConsumer, RingProducer};
use anyhow::{Result, ensure};

use super::records::Records;
use crate::meter::{Link, Patience, Take, WINDOW};
use crate::scene::{Responder, Scene, Wait, say_ready};

/// Records of a ring: twice what is in flight, so that a writer that never waits laps nobody.
const CAPACITY: u64 = 2 * WINDOW as u64;

pub(crate) struct Ringfire;

impl Records for Ringfire {
    const NAME: &'static str = "ringfire";

    fn respond_with<const SIZE: usize>(scene: &Scene) -> Result<()> {
        let mut responses = RingProducer::create(scene.path("responses"), CAPACITY)?;
        let mut requests = Reader::<SIZE>::attach(scene, "requests")?;
        say_ready()?;
        // Until this process is ended.
        loop {
            responses.push(&requests.next()?);
        }
    }

    fn connect_with<const SIZE: usize>(scene: &Scene) -> Result<(Box<dyn Link>, Responder)> {
        let requests = RingProducer::create(scene.path("requests"), CAPACITY)?;
        let responder = scene.start_responder(&[])?;
        let responses = Reader::<SIZE>::attach(scene, "responses")?;
        Ok((Box::new(Client { requests, responses }), responder))
    }
}

struct Reader<const SIZE: usize> {
    consumer: RingConsumer<[u8; SIZE]>,
    wait: Wait,
    futex: FutexWait,
}

impl<const SIZE: usize> Reader<SIZE> {
    fn attach(scene: &Scene, name: &str) -> Result<Self> {
        let consumer = RingConsumer::attach(scene.path(name))?;
        Ok(Self { consumer, wait: scene.wait, futex: FutexWait::default() })
    }

    #[inline]
    fn next(&mut self) -> Result<[u8; SIZE]> {
        if self.wait == Wait::Sleeps {
            return Ok(self.consumer.recv_blocking(&mut self.futex));
        }
        let mut patience = Patience::new();
        loop {
            match self.consumer.try_recv() {
                Some(record) => return Ok(record),
                None => patience.spin()?,
            }
        }
    }
}

struct Client<const SIZE: usize> {
    requests: RingProducer<[u8; SIZE]>,
    responses: Reader<SIZE>,
}

impl<const SIZE: usize> Link for Client<SIZE> {
    #[inline]
    fn round_trip(&mut self, payload: &[u8], answer: &mut [u8]) -> Result<()> {
        self.send(payload)?;
        answer.copy_from_slice(&self.responses.next()?);
        Ok(())
    }

    #[inline]
    fn send(&mut self, payload: &[u8]) -> Result<bool> {
        self.requests.push(payload.first_chunk().expect("a payload is a record"));
        Ok(true)
    }

    fn receive(&mut self, take: &mut Take<'_>) -> Result<()> {
        take(&self.responses.next()?)?;
        while let Some(record) = self.responses.consumer.try_recv() {
            take(&record)?;
        }
        ensure!(self.responses.consumer.lapped_count() == 0, "the reader was lapped");
        Ok(())
    }
}
