//! The link between a shard and a worker: both real ends, the real pool, and what wakes whom.

use std::sync::Arc as StdArc;

use annulus::limits::{PAGE_SIZE, REPLY_INLINE_SIZE_MAX};
use annulus::link::{Forwarded, Job, JobKind, ReplyError, ShardEnd, WorkerEnd, link};
use annulus::pool::{BufferPool, PoolSizes, TierIndex};
use annulus::sync::spin_hint;
use annulus::wake::{ShardWaker, WorkerDoorbell, WorkerWaker};
use annulus::wire::{FrameHeader, MessageType, Status};
use loom::thread;

use crate::stage::{Bound, Memory, Reader, UNIT_PAYLOAD, Writer, explore};

/// A pool with a single buffer, so that everybody wants the same one.
pub(crate) fn pool_of_one() -> BufferPool {
    BufferPool::new(PoolSizes { buffer_size: [PAGE_SIZE; 4], count: [1, 0, 0, 0] }).unwrap()
}

/// A shard's side: its end of the link and what it sleeps on.
struct Shard {
    end: ShardEnd,
    waker: StdArc<ShardWaker>,
}

/// A worker's side.
pub(crate) struct Worker {
    pub(crate) end: WorkerEnd,
    pub(crate) doorbell: WorkerDoorbell,
}

/// A link for two slots.
fn pair(pool: &BufferPool) -> (Shard, Worker) {
    let waker = StdArc::new(ShardWaker::new().unwrap());
    let (worker_waker, doorbell) = WorkerWaker::new().unwrap();
    let (end, worker_end) =
        link(2, pool.clone(), StdArc::clone(&waker), StdArc::new(worker_waker)).unwrap();
    (Shard { end, waker }, Worker { end: worker_end, doorbell })
}

impl Shard {
    /// Takes the oldest reply, whose client is gone; sleeps while there is none.
    fn discard_next(&mut self, slot: usize) -> Forwarded {
        loop {
            match self.end.discard(slot) {
                Forwarded::Nothing => self.sleep(),
                discarded => return discarded,
            }
        }
    }

    /// As a shard does: announces it, looks once more, and sleeps until there is news.
    fn sleep(&self) {
        let parked = self.waker.parked();
        parked.arm();
        if !self.end.has_news() {
            self.waker.doorbell().wait();
        }
        parked.disarm();
        self.end.take_news(|_| ());
    }
}

impl Worker {
    /// Takes the oldest job; sleeps while there is none.
    pub(crate) fn next(&mut self) -> Job {
        loop {
            if let Some(job) = self.end.take() {
                return job;
            }
            self.end.arm();
            if !self.end.has_job() {
                self.doorbell.wait();
            }
            self.end.disarm();
        }
    }

    /// Publishes a reply; sleeps while its ring is full.
    pub(crate) fn publish(&mut self, slot: u32, header: FrameHeader, payload: &[u8]) {
        while let Err(error) = self.end.publish(slot, header, payload) {
            self.wait_for(error);
        }
    }

    /// Says the last word on a connection; sleeps while the ring is full.
    pub(crate) fn acknowledge(&mut self, slot: u32) {
        while let Err(error) = self.end.acknowledge_closed(slot) {
            self.wait_for(error);
        }
    }

    fn wait_for(&self, error: ReplyError) {
        match error {
            ReplyError::Full => self.doorbell.wait(),
            // A worker tries again after a millisecond.
            ReplyError::NoLease => spin_hint(),
            ReplyError::TooLarge => panic!("no reply here is larger than a buffer"),
        }
    }
}

/// A job that carries nothing but a number.
fn job(request_id: u64) -> Job {
    Job { slot: 0, connection_id: 1, kind: JobKind::Cancel { request_id } }
}

fn id_of(job: &Job) -> u64 {
    match job.kind {
        JobKind::Request { header, .. } => header.request_id,
        JobKind::Cancel { request_id } => request_id,
        JobKind::Closed => panic!("nothing is closed here"),
    }
}

fn chunk(request_id: u64) -> FrameHeader {
    FrameHeader::request(MessageType::STREAM, request_id).chunk()
}

#[test]
fn no_job_is_lost_on_a_worker_that_parks_within_5_preemptions() {
    explore(Bound::Preemptions(5), || {
        let (mut shard, mut worker) = pair(&pool_of_one());
        let sender = thread::spawn(move || {
            for id in 1..=2 {
                assert!(shard.end.has_room());
                shard.end.send(job(id));
            }
        });
        for id in 1..=2 {
            assert_eq!(id_of(&worker.next()), id);
        }
        sender.join().unwrap();
    });
}

#[test]
fn a_full_job_ring_takes_the_next_job_once_a_parking_worker_has_taken_one_within_3_preemptions() {
    explore(Bound::Preemptions(3), || {
        let (mut shard, mut worker) = pair(&pool_of_one());
        for id in 1..=3 {
            shard.end.send(job(id));
        }
        assert!(!shard.end.has_room(), "three units of four are full");
        let sender = thread::spawn(move || {
            for id in 4..=5 {
                // A shard that has jobs to send polls.
                while !shard.end.has_room() {
                    spin_hint();
                }
                shard.end.send(job(id));
            }
        });
        for id in 1..=5 {
            assert_eq!(id_of(&worker.next()), id);
        }
        sender.join().unwrap();
    });
}

#[test]
fn a_lease_that_travels_in_a_job_has_one_holder_and_comes_back_within_5_preemptions() {
    explore(Bound::Preemptions(5), || {
        let pool = pool_of_one();
        let (mut shard, mut worker) = pair(&pool);
        let there = pool.clone();
        let sender = thread::spawn(move || {
            for id in 1..=2 {
                let mut payload = loop {
                    match there.lease(8) {
                        Some(lease) => break lease,
                        None => spin_hint(),
                    }
                };
                payload.fill(id);
                let header = FrameHeader::request(MessageType::STREAM, id.into());
                let kind = JobKind::Request { header, codec: 0, payload: Some(payload) };
                shard.end.send(Job { slot: 0, connection_id: 1, kind });
            }
        });
        for id in 1..=2 {
            let job = worker.next();
            let JobKind::Request { payload: Some(payload), .. } = job.kind else {
                panic!("another job");
            };
            assert_eq!(*payload, [id; 8], "another holder wrote to it");
        }
        sender.join().unwrap();
        assert_eq!(pool.free_count(TierIndex::Small), 1);
    });
}

#[test]
fn neither_a_blocked_worker_nor_a_parked_shard_sleeps_through_a_full_reply_ring_within_3_preemptions()
 {
    explore(Bound::Preemptions(3), || {
        let (mut shard, mut worker) = pair(&pool_of_one());
        for id in 1..=3 {
            worker.end.publish(0, chunk(id), &[]).unwrap();
        }
        let publisher = thread::spawn(move || {
            for id in 4..=5 {
                worker.publish(0, chunk(id), &[]);
            }
        });
        for id in 1..=5 {
            let Forwarded::Frame { header, .. } = shard.discard_next(0) else {
                panic!("no frame");
            };
            assert_eq!(header.request_id, id);
        }
        publisher.join().unwrap();
    });
}

#[test]
fn a_leased_reply_that_the_client_has_no_room_for_keeps_its_buffer_within_4_preemptions() {
    explore(Bound::Preemptions(4), || {
        let pool = pool_of_one();
        let (mut shard, mut worker) = pair(&pool);
        // The client's response ring, full until the client takes a frame.
        let (memory, mut responses) = (Memory::new(), Writer::new());
        let mut client = Reader::new();
        for id in 1..=3 {
            assert!(responses.publish(&memory, id, UNIT_PAYLOAD));
        }
        let publisher = thread::spawn(move || {
            let payload = |id: u64| crate::stage::payload(id, REPLY_INLINE_SIZE_MAX + 8);
            // The second one waits for the buffer of the first.
            for id in 4..=5 {
                worker.publish(0, chunk(id), &payload(id));
            }
        });
        let mut scratch = [0; REPLY_INLINE_SIZE_MAX];
        let mut expected = 1;
        while expected <= 5 {
            match shard.end.forward(0, responses.producer(), memory.view(), &mut scratch) {
                Forwarded::Nothing => shard.sleep(),
                Forwarded::Frame { .. } => {}
                Forwarded::Blocked => {
                    assert_eq!(client.take(&memory), Some(expected));
                    expected += 1;
                }
                other => panic!("{other:?}"),
            }
            while expected > 3
                && let Some(id) = client.take(&memory)
            {
                assert_eq!(id, expected);
                expected += 1;
            }
        }
        publisher.join().unwrap();
        assert_eq!(pool.free_count(TierIndex::Small), 1);
    });
}

#[test]
fn a_lease_on_its_way_to_a_lost_client_comes_back_within_3_preemptions() {
    explore(Bound::Preemptions(3), || {
        let pool = pool_of_one();
        let (mut shard, mut worker) = pair(&pool);
        let publisher = thread::spawn(move || {
            worker.publish(0, chunk(1), &[1; REPLY_INLINE_SIZE_MAX + 8]);
            worker.publish(0, chunk(2), &[2; REPLY_INLINE_SIZE_MAX + 8]);
            worker.publish(0, chunk(3), &[3; 8]);
            worker.acknowledge(0);
        });
        let mut discarded = 0;
        while shard.discard_next(0) != Forwarded::Closed {
            discarded += 1;
        }
        publisher.join().unwrap();
        assert_eq!((discarded, shard.end.discard(0)), (3, Forwarded::Nothing));
        assert_eq!(pool.free_count(TierIndex::Small), 1);
    });
}

#[test]
fn a_reply_ring_is_its_slots_own_and_the_news_say_whose_within_4_preemptions() {
    explore(Bound::Preemptions(4), || {
        let (mut shard, mut worker) = pair(&pool_of_one());
        // Slot 0 is full for good: its client does not read.
        for id in 1..=3 {
            worker.end.publish(0, chunk(id), &[]).unwrap();
        }
        shard.end.take_news(|_| ());
        let publisher = thread::spawn(move || {
            assert_eq!(worker.end.publish(0, chunk(4), &[]), Err(ReplyError::Full));
            worker.end.publish(1, chunk(5), &[]).unwrap();
        });
        let header = loop {
            let mut slots = Vec::new();
            shard.end.take_news(|slot| slots.push(slot));
            if slots.contains(&1) {
                let Forwarded::Frame { header, .. } = shard.end.discard(1) else {
                    panic!("news without a frame");
                };
                break header;
            }
            let parked = shard.waker.parked();
            parked.arm();
            if !shard.end.has_news() {
                shard.waker.doorbell().wait();
            }
            parked.disarm();
        };
        assert_eq!((header.request_id, header.status()), (5, Status::Ok));
        publisher.join().unwrap();
    });
}
