//! Bounds of rings, connections and shards, with the assertions between them.
//!
//! Sizes are in bytes, counts are counts, durations carry their unit in the name. What a person can
//! configure is in `config::schema` and `config::remote`, which take some of its limits from here;
//! the rest is fixed by the protocol or by design.

use static_assertions::const_assert;

/// In the model checks each word is dear: what need not be large there is as small as it works.
pub(crate) const MODELLED: bool = cfg!(annulus_loom);

/// Bytes of one ring word; every shared-memory access is one of these.
pub const WORD_SIZE: u64 = 8;
/// Bytes of one cache line on the machines that we serve (x86-64, AArch64).
pub const LINE_SIZE: u64 = 64;
/// Bytes of the page on which a quiet connection lives.
pub const PAGE_SIZE: u64 = if MODELLED { 1024 } else { 4096 };

/// Bytes of a frame header: four words.
pub const FRAME_HEADER_SIZE: u64 = 32;
/// Every frame starts on a multiple of this many bytes and its span is a multiple of it.
///
/// One cache line: a 64-byte request travels in exactly two lines, and no two frames share one, so
/// the producer never writes a line that the consumer is still reading.
pub const FRAME_ALIGNMENT: u64 = LINE_SIZE;

/// Bytes of the shared header in the middle of the home page: six lines, one writer each.
pub const REGION_HEADER_SIZE: u64 = 6 * LINE_SIZE;
/// Bytes of each ring that lie on the home page, beside the shared header.
pub const HOME_SIZE: u64 = (PAGE_SIZE - REGION_HEADER_SIZE) / 2;

/// Smallest ring capacity that a handshake may ask for.
pub const RING_CAPACITY_MIN: u64 = 1 << 14;
/// Largest ring capacity that a handshake may ask for.
pub const RING_CAPACITY_MAX: u64 = 1 << 27;
/// Ring capacity that our client asks for: the default largest message in one piece, mostly untouched.
pub const RING_CAPACITY_DEFAULT: u64 = 1 << 24;

/// Default of `ipc.max_message_size`: largest payload in either direction.
pub const MESSAGE_SIZE_MAX_DEFAULT: u32 = 10 * 1024 * 1024;
/// Smallest value that `ipc.max_message_size` takes.
pub const MESSAGE_SIZE_MAX_FLOOR: u32 = 4096;
/// Largest value that `ipc.max_message_size` takes.
pub const MESSAGE_SIZE_MAX_CEILING: u32 = 64 * 1024 * 1024;

/// Default of `ipc.max_connections`.
pub const CONNECTIONS_MAX_DEFAULT: u32 = 1000;
/// Requests of one connection that may wait for an asynchronous handler; one more is answered *busy*.
pub const IN_FLIGHT_PER_CONNECTION: u32 = 64;
/// Bytes of error text that an answer may carry.
pub const DETAIL_SIZE_MAX: u32 = 512;

/// What a synchronous handler may always answer, whatever the size of its request.
pub const SYNC_REPLY_SIZE_MIN: u32 = 4096;

/// Frames that one visit to a connection takes from its request ring.
pub const FRAMES_PER_VISIT: u32 = 32;
/// Frames that are held back before they are shown together: of a batch of requests, and of a batch of
/// answers after its first.
pub const FRAMES_HELD_MAX: u32 = 8;
/// Bytes of payload that are held back; copying more takes longer than a line travels.
pub const BYTES_HELD_MAX: u64 = 4096;
/// Bytes of payload after which a visit ends (one larger frame is always taken whole). So small that who
/// has one request now and then waits for microseconds beside any number of others who have many.
pub const BYTES_PER_VISIT: u64 = 8 * 1024;
/// The same while somebody interactive is polled.
pub const BYTES_PER_SHORT_VISIT: u64 = 4 * 1024;
/// The most where nobody else is polled: as many frames of 1 KiB as a visit takes.
pub const BYTES_PER_LONE_VISIT: u64 = 32 * 1024;
/// Frames of interactive connections that are served between two visits to others.
pub const INTERACTIVE_PER_VISIT: usize = 16;
/// Bytes of payload above which a connection is not interactive, whatever else it does.
pub const INTERACTIVE_SIZE_MAX: u64 = 4096;
/// What a connection was lately served leaves its bucket at one byte in so many nanoseconds: 0.98 MB/s.
pub const RECENT_NS_PER_BYTE: u64 = 1024;
/// Bytes up to which a connection's recent use is light, so that it goes before those with a backlog.
pub const RECENT_LIGHT_MAX: u64 = 32 * 1024;
/// Bytes of recent use that are remembered.
pub const RECENT_MAX: u64 = 64 * 1024;
/// Visits in a row that found one small request each, after which a connection is one that waits for its
/// answers, however much it is served: it cannot take more than a frame each time.
pub const SINGLE_VISITS_MIN: u8 = 8;
/// What serving a frame costs beside its payload, in bytes of payload that take as long.
pub const FRAME_SERVICE_BYTES: u64 = 256;
/// Frames that a turn takes before it gives its shell a chance to hear doorbells.
pub const FRAMES_PER_TURN: usize = 64;
/// Bytes of payload, likewise.
pub const BYTES_PER_TURN: u64 = 8 * 1024;
/// Padding frames in a row that a consumer accepts; an honest producer never needs three.
pub const PADDING_RUN_MAX: u32 = 3;

/// Bytes of a ring between two threads of the daemon that carries jobs to a worker executor.
pub const JOB_RING_CAPACITY: u64 = if MODELLED { 4 * FRAME_ALIGNMENT } else { 1 << 16 };
/// Bytes of the ring that carries one connection's replies from a worker executor to its data shard.
pub const REPLY_RING_CAPACITY: u64 = if MODELLED { 4 * FRAME_ALIGNMENT } else { 1 << 15 };
/// Largest reply that travels inside a reply ring; a larger one travels in a lease.
pub const REPLY_INLINE_SIZE_MAX: usize = if MODELLED { 32 } else { 4096 };

/// Replies of one connection that may wait in leases for its client to read. Each holds a buffer that
/// others need: a client that does not read must not hold many.
pub const LEASED_REPLIES_PER_CONNECTION: usize = 2;

/// Descriptors that a handshake passes: region, request doorbell, response doorbell.
pub const HANDSHAKE_DESCRIPTOR_COUNT: usize = 3;
/// Descriptors that one connection keeps open in the daemon: its socket and two doorbells.
pub const DESCRIPTORS_PER_CONNECTION: u64 = 3;
/// Descriptors that the daemon needs beside its connections: executors' urings, doorbells, logs,
/// the listener, and handshakes under way.
pub const DESCRIPTORS_RESERVED: u64 = 64 + 5 * HANDSHAKES_MAX as u64;
/// Handshakes under way at one time; one more waits in the listener's backlog.
pub const HANDSHAKES_MAX: usize = 64;
/// Connections on their way to one data shard; further ones wait with the control thread, which looks
/// again after a millisecond.
pub const ARRIVALS_MAX: usize = 64;

/// What a client that met *busy* is told to wait before it tries again, in milliseconds.
pub const BUSY_RETRY_AFTER_MS: u32 = 100;

const_assert!(FRAME_ALIGNMENT >= FRAME_HEADER_SIZE);
const_assert!(FRAME_ALIGNMENT.is_multiple_of(WORD_SIZE));
const_assert!(HOME_SIZE.is_multiple_of(FRAME_ALIGNMENT));
const_assert!(2 * HOME_SIZE + REGION_HEADER_SIZE == PAGE_SIZE);
// The largest default message fits a default ring in one piece.
const_assert!(MESSAGE_SIZE_MAX_DEFAULT as u64 + 2 * FRAME_ALIGNMENT <= RING_CAPACITY_DEFAULT);
const_assert!(MESSAGE_SIZE_MAX_CEILING as u64 + 2 * FRAME_ALIGNMENT <= RING_CAPACITY_MAX);
const_assert!(RING_CAPACITY_MIN >= 4 * PAGE_SIZE);
// A reply ring holds at least two inline replies with their headers, wherever they start.
const_assert!(
    MODELLED || 2 * (REPLY_INLINE_SIZE_MAX as u64 + 2 * FRAME_ALIGNMENT) <= REPLY_RING_CAPACITY
);
// An error answer fits what a synchronous handler may always say.
const_assert!(DETAIL_SIZE_MAX <= SYNC_REPLY_SIZE_MIN);
