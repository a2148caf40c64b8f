//! What kind of run a seed is: sizes, pace, and which faults it has at what rate.
//!
//! Every run has some faults and lacks others (swarm testing, Groce et al., ISSTA 2012): a fault that
//! is always there hides what only happens without it.

use annulus::limits::{FRAME_ALIGNMENT, FRAME_HEADER_SIZE};
use annulus::pool::PoolSizes;
use annulus::region::RegionLayout;
use annulus::wire::Features;

use super::stage::Stage;

/// How the daemon is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// After everything has come to rest.
    AtRest,
    /// While requests are in flight, which are to be finished.
    UnderWay,
    /// While requests are in flight, with no time to finish them.
    Hard,
}

/// The faults of a run, in cases of a thousand unless they are times.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) client_stall: u64,
    pub(crate) worker_stall: u64,
    pub(crate) shard_stall: u64,
    /// Longest stall, in nanoseconds.
    pub(crate) stall_ns_max: u64,
    /// Longest time from a ring or a hang-up to its completion in the shard's uring, in nanoseconds.
    pub(crate) delay_ns_max: u64,
    /// A client rings for nothing.
    pub(crate) spurious_ring: u64,
    /// A client dies at this step.
    pub(crate) death: u64,
    /// Of the deaths: in the middle of a publish.
    pub(crate) torn: u64,
    /// A client turns hostile at this step.
    pub(crate) hostile: u64,
    /// A hostile client writes while the shard is in the middle of its visit.
    pub(crate) tamper: u64,
    /// A request is followed by its cancellation.
    pub(crate) cancel: u64,
    /// A request is followed by hundreds of cancellations, which fill the job ring.
    pub(crate) flood: u64,
    /// A request has a deadline.
    pub(crate) deadline: u64,
    /// A request takes the id of one that has ended.
    pub(crate) reused_id: u64,
    /// A request is larger than the connection allows.
    pub(crate) oversized: u64,
    /// A client with a frame to read does something else first.
    pub(crate) lazy: u64,
    /// A client never reads again.
    pub(crate) freeze: u64,
    /// At each look of the shard at a region somebody else takes a step.
    pub(crate) preempt: u64,
}

/// A whole run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) slot_count: usize,
    pub(crate) worker_count: usize,
    /// Clients over the whole run; each takes a slot that is free.
    pub(crate) client_total: usize,
    pub(crate) layout: RegionLayout,
    pub(crate) payload_checked: bool,
    pub(crate) home_again: bool,
    pub(crate) message_size_max: u32,
    pub(crate) pool: PoolSizes,
    pub(crate) spin_ns: u64,
    pub(crate) idle_timeout_ns: Option<u64>,
    /// Steps before the faults stop.
    pub(crate) steps: u32,
    pub(crate) requests_per_client: u32,
    /// How many requests an honest client leaves unanswered; more than the daemon takes is allowed.
    pub(crate) unanswered_max: usize,
    /// Of requests, in a thousand: those for workers.
    pub(crate) work: u64,
    /// Of payloads and answers, in a thousand: those that are large.
    pub(crate) large: u64,
    /// Longest time that a client thinks between requests, or a worker between chunks.
    pub(crate) think_ns_max: u64,
    pub(crate) shard_weight: u64,
    pub(crate) worker_weight: u64,
    pub(crate) stop: Stop,
    pub(crate) faults: Faults,
}

impl Plan {
    /// What the handshake would have granted.
    pub(crate) fn features(&self) -> Features {
        let mut features = Features::empty();
        features.set(Features::PAYLOAD_CHECK, self.payload_checked);
        features.set(Features::HOME_AGAIN, self.home_again);
        features
    }

    pub(crate) fn draw(stage: &Stage) -> Self {
        let capacity = || stage.pick(&[1 << 14, 1 << 14, 1 << 15, 1 << 16]);
        let layout = RegionLayout::new(capacity(), capacity());
        let slot_count = stage.pick(&[1, 2, 3, 4, 6, 70]);
        let idle_timeout_ns = stage.pick(&[None, None, Some(2_000_000), Some(20_000_000)]);
        let faults = Faults::draw(stage, idle_timeout_ns.is_some());
        let few = |stage: &Stage| stage.pick(&[1, 1, 2, 8]);
        Self {
            slot_count,
            worker_count: stage.pick(&[1, 2]),
            client_total: slot_count.min(6) + stage.index(8),
            layout,
            payload_checked: stage.chance(300),
            home_again: stage.chance(700),
            message_size_max: stage.pick(&[4096, 8192, 1 << 20]),
            pool: PoolSizes {
                buffer_size: [4 << 10, 16 << 10, 32 << 10, 64 << 10],
                count: [few(stage), few(stage), 1, 2],
            },
            spin_ns: stage.pick(&[0, 1_000, 50_000]),
            idle_timeout_ns,
            steps: stage.pick(&[300, 1000, 2500]),
            requests_per_client: stage.pick(&[3, 20, 200]),
            unanswered_max: stage.pick(&[1, 4, 30, 64, 90]),
            work: stage.pick(&[0, 300, 700, 1000]),
            large: stage.pick(&[0, 100, 500]),
            think_ns_max: stage.pick(&[0, 1_000, 200_000, 5_000_000]),
            shard_weight: stage.pick(&[1, 4, 12]),
            worker_weight: stage.pick(&[1, 2, 6]),
            stop: stage.pick(&[Stop::AtRest, Stop::AtRest, Stop::UnderWay, Stop::Hard]),
            faults,
        }
    }

    /// Largest frame of a worker's answer, in bytes: it fits a buffer and the response ring.
    pub(crate) fn answer_size_max(&self) -> usize {
        let fits = self.layout.response_capacity() - FRAME_ALIGNMENT - FRAME_HEADER_SIZE;
        usize::try_from(fits.min(40_000)).expect("a ring is small")
    }
}

impl Faults {
    fn draw(stage: &Stage, may_freeze: bool) -> Self {
        // Each fault is in two runs of five.
        let rate = |rates: &[u64]| if stage.chance(400) { stage.pick(rates) } else { 0 };
        let faults = Self {
            client_stall: rate(&[2, 10, 50]),
            worker_stall: rate(&[2, 10, 50]),
            shard_stall: rate(&[2, 10, 50]),
            stall_ns_max: stage.pick(&[10_000, 300_000, 5_000_000]),
            delay_ns_max: rate(&[500, 20_000, 1_000_000]),
            spurious_ring: rate(&[10, 100]),
            death: rate(&[1, 5, 20]),
            torn: stage.pick(&[0, 500, 1000]),
            hostile: rate(&[1, 5, 20]),
            tamper: rate(&[5, 50]),
            cancel: rate(&[50, 300, 1000]),
            flood: rate(&[20, 100]),
            deadline: rate(&[100, 500]),
            reused_id: rate(&[200, 1000]),
            oversized: rate(&[2, 20]),
            lazy: rate(&[300, 900, 990]),
            freeze: rate(&[1, 5]),
            preempt: stage.pick(&[0, 2, 5, 5, 50, 300]),
        };
        // Somebody has to get rid of a client that never reads: the idle timeout.
        Self { freeze: if may_freeze { faults.freeze } else { 0 }, ..faults }
    }
}
