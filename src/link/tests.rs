//! A job's way there and a reply's way back.

use super::shard_end::Forwarded;
use super::worker_end::ReplyError;
use super::*;
use crate::limits::{LEASED_REPLIES_PER_CONNECTION, REPLY_INLINE_SIZE_MAX};
use crate::pool::{PoolSizes, TierIndex};
use crate::ring::{Consumer, Producer};
use crate::sync::Ordering::Relaxed;
use crate::wire::{FrameHeader, MessageType, Status};

struct Pair {
    shard: ShardEnd,
    worker: WorkerEnd,
    pool: BufferPool,
    /// Stands for the client's response ring.
    words: Vec<AtomicU64>,
    head: AtomicU64,
    responses: Producer,
    client: Consumer,
}

impl Pair {
    fn new() -> Self {
        let pool = BufferPool::new(PoolSizes::for_config(12, 1 << 20)).unwrap();
        let (waker, _socket) = WorkerWaker::new().unwrap();
        let (shard, worker) =
            link(3, pool.clone(), Arc::new(ShardWaker::new().unwrap()), Arc::new(waker)).unwrap();
        Self {
            shard,
            worker,
            pool,
            words: (0..(1 << 17) / 8).map(|_| AtomicU64::new(0)).collect(),
            head: AtomicU64::new(0),
            responses: Producer::new(Home::NONE, false),
            client: Consumer::new(Home::NONE, false),
        }
    }

    fn forward(&mut self, slot: usize) -> Forwarded {
        let ring = RingView::new(&self.words, &self.head);
        self.shard.forward(slot, &mut self.responses, ring, &mut [0; REPLY_INLINE_SIZE_MAX])
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let ring = RingView::new(&self.words, &self.head);
        let header = self.client.poll(ring).unwrap()?;
        let mut payload = vec![0; header.payload_size as usize];
        self.client.copy_payload(ring, &header, &mut payload).unwrap();
        self.client.release(ring, &header);
        Some(payload)
    }
}

fn answer(id: u64) -> FrameHeader {
    FrameHeader::request(MessageType::STREAM, id).answer(Status::Ok)
}

#[test]
fn a_job_carries_its_lease_to_the_worker() {
    let mut pair = Pair::new();
    let mut payload = pair.pool.lease(5).unwrap();
    payload.copy_from_slice(b"hello");
    let header = FrameHeader::request(MessageType::STREAM, 9);
    assert!(pair.shard.has_room());
    pair.shard.send(Job {
        slot: 2,
        connection_id: 77,
        kind: JobKind::Request { header, codec: 1, payload: Some(payload) },
    });
    let job = pair.worker.take().unwrap();
    assert_eq!((job.slot, job.connection_id), (2, 77));
    let JobKind::Request { header, codec: 1, payload: Some(lease) } = job.kind else {
        panic!("another kind");
    };
    assert_eq!((header.request_id, &*lease), (9, &b"hello"[..]));
    assert!(pair.worker.take().is_none());
}

#[test]
fn replies_of_any_size_reach_the_client_and_leases_come_home() {
    let mut pair = Pair::new();
    for size in [0, 1, REPLY_INLINE_SIZE_MAX, REPLY_INLINE_SIZE_MAX + 1, 100_000] {
        pair.worker.publish(1, answer(3), &vec![7; size]).unwrap();
        let mut news = Vec::new();
        pair.shard.take_news(|slot| news.push(slot));
        assert_eq!(news, [1]);
        assert!(
            matches!(pair.forward(1), Forwarded::Frame { size: sent, .. } if sent as usize == size)
        );
        assert_eq!(pair.forward(1), Forwarded::Nothing);
        assert_eq!(pair.receive().unwrap(), vec![7; size]);
    }
    for tier in TierIndex::ALL {
        assert_eq!(pair.pool.free_count(tier), pair.pool.count(tier));
    }
}

#[test]
fn a_client_that_does_not_read_blocks_its_own_ring_only() {
    let mut pair = Pair::new();
    let chunk = vec![1; REPLY_INLINE_SIZE_MAX];
    let mut sent = 0;
    while pair.worker.publish(0, answer(sent), &chunk).is_ok() {
        sent += 1;
        assert!(sent < 100, "a reply ring is bounded");
    }
    assert_eq!(pair.worker.publish(0, answer(0), &chunk), Err(ReplyError::Full));
    pair.worker.publish(1, answer(0), b"other").unwrap();
    assert!(matches!(pair.forward(1), Forwarded::Frame { .. }));
    for _ in 0..sent {
        assert!(matches!(pair.forward(0), Forwarded::Frame { .. }));
    }
    pair.worker.publish(0, answer(0), &chunk).unwrap();
}

#[test]
fn a_leased_reply_that_does_not_fit_stays_and_is_kept() {
    let mut pair = Pair::new();
    pair.worker.publish(0, answer(1), &vec![1; 90_000]).unwrap();
    pair.worker.publish(0, answer(2), &vec![2; 90_000]).unwrap();
    assert!(matches!(pair.forward(0), Forwarded::Frame { .. }));
    assert_eq!(pair.forward(0), Forwarded::Blocked);
    assert_eq!(pair.receive().unwrap()[0], 1);
    // One try puts the padding down, the client passes it, the next succeeds.
    while pair.forward(0) == Forwarded::Blocked {
        assert_eq!(pair.receive(), None);
    }
    assert_eq!(pair.receive().unwrap(), vec![2; 90_000]);
}

#[test]
fn replies_for_a_lost_client_are_dropped_up_to_the_acknowledgement() {
    let mut pair = Pair::new();
    pair.worker.publish(0, answer(1), &vec![1; 90_000]).unwrap();
    pair.worker.publish(0, answer(2), b"late").unwrap();
    pair.worker.acknowledge_closed(0).unwrap();
    assert!(matches!(pair.shard.discard(0), Forwarded::Frame { .. }));
    assert!(matches!(pair.shard.discard(0), Forwarded::Frame { .. }));
    assert_eq!(pair.shard.discard(0), Forwarded::Closed);
    for tier in TierIndex::ALL {
        assert_eq!(pair.pool.free_count(tier), pair.pool.count(tier));
    }
}

#[test]
fn reply_rings_give_their_pages_back_and_serve_the_next_connection() {
    let mut pair = Pair::new();
    // More than a lap, so that the ring is left in the middle.
    for connection in 0..5_u64 {
        for id in 0..3 {
            pair.worker.publish(1, answer(id), &[7; REPLY_INLINE_SIZE_MAX]).unwrap();
        }
        pair.worker.acknowledge_closed(1).unwrap();
        for _ in 0..3 {
            assert!(matches!(pair.shard.discard(1), Forwarded::Frame { .. }), "{connection}");
        }
        assert!(!pair.shard.has_idle_pages());
        assert_eq!(pair.shard.discard(1), Forwarded::Closed);
        assert!(pair.shard.has_idle_pages());
        pair.shard.give_back_pages();
        let shared = &pair.shard.shared;
        let [start, end] = [1, 2].map(|slot| {
            usize::try_from(shared.replies_start(slot) / WORD_SIZE).expect("within the mapping")
        });
        let ring = &shared.memory.words()[start..end];
        assert!(ring.iter().all(|word| word.load(Relaxed) == 0), "{connection}");
    }
}

#[test]
fn a_reply_larger_than_any_buffer_is_refused() {
    let mut pair = Pair::new();
    let refused = pair.worker.publish(0, answer(1), &vec![1; (1 << 20) + 1]);
    assert_eq!(refused, Err(ReplyError::TooLarge));
}

#[test]
fn a_client_that_does_not_read_holds_no_more_buffers_than_its_share() {
    let mut pair = Pair::new();
    let large = vec![1; REPLY_INLINE_SIZE_MAX + 1];
    let chunk = FrameHeader::request(MessageType::STREAM, 1);
    for _ in 0..LEASED_REPLIES_PER_CONNECTION {
        pair.worker.publish(0, chunk, &large).unwrap();
    }
    assert_eq!(pair.worker.publish(0, chunk, &large), Err(ReplyError::Full));
    // Small replies need no buffer, and another connection has a share of its own.
    pair.worker.publish(0, chunk, b"small").unwrap();
    pair.worker.publish(1, chunk, &large).unwrap();
    assert!(matches!(pair.forward(0), Forwarded::Frame { .. }));
    pair.worker.publish(0, chunk, &large).unwrap();
    assert_eq!(pair.worker.publish(0, chunk, &large), Err(ReplyError::Full));
}

#[test]
fn replies_that_wait_leave_buffers_to_requests() {
    let mut pair = Pair::new();
    let large = vec![1; REPLY_INLINE_SIZE_MAX + 1];
    let chunk = FrameHeader::request(MessageType::STREAM, 1);
    let outcomes: Vec<_> = (0..3)
        .flat_map(|slot| [slot; LEASED_REPLIES_PER_CONNECTION])
        .map(|slot| pair.worker.publish(slot, chunk, &large))
        .collect();
    // Of twelve buffers and four mapped ones, medium 3, large 1, mapped 4 are large enough.
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 5);
    assert!(outcomes.contains(&Err(ReplyError::NoLease)));
    assert!(pair.pool.lease(1 << 20).is_some(), "a request of the largest size finds a buffer");
}
