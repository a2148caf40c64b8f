//! What a connection is asked to be: where it goes, how large its rings are, how it waits.
//!
//! The invariant to remember: building options touches nothing; everything is checked, and every
//! default that depends on the process is worked out, when somebody connects.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::IpcError;
use crate::limits::{RING_CAPACITY_DEFAULT, RING_CAPACITY_MAX, RING_CAPACITY_MIN};
use crate::paths::{Places, check_socket_path};
use crate::protocol::{Codec, CodecId, JsonCodec, RkyvCodec};
use crate::region::RegionLayout;

/// Environment variable that names the daemon's socket.
pub const SOCKET_PATH_VARIABLE: &str = "ANNULUS_IPC_SOCKET_PATH";

/// How long a waiting client polls before it parks, unless it is told otherwise.
const SPIN_DEFAULT: Duration = Duration::from_micros(50);
/// How long a daemon may take to say welcome, unless told otherwise.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);

/// How to wait for an answer.
///
/// Polling answers in a fraction of a microsecond and uses a core; parking costs two wake-ups, tens
/// of microseconds, and uses nothing.
///
/// After a pause a daemon with one client waits on that client's core, where a wake-up takes a few
/// microseconds. There whoever waits parks whatever its policy, because polling would keep the daemon from
/// answering; when the two are busy, the daemon has a core of its own again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitPolicy {
    /// How long to poll before parking. Zero: park at once.
    pub spin: Duration,
    /// Whether to park at all where the daemon is on another core. `false` polls for ever there and ignores
    /// `spin`; a hang-up and a deadline are still noticed, within about a millisecond.
    pub park: bool,
}

impl WaitPolicy {
    /// Polls for ever: the lowest latency while requests follow each other, at the price of one core
    /// while waiting.
    pub const SPIN: Self = Self { spin: SPIN_DEFAULT, park: false };
    /// Parks at once: no processor time is spent on waiting.
    pub const PARK: Self = Self { spin: Duration::ZERO, park: true };
}

impl Default for WaitPolicy {
    /// Polls for 50 µs, then parks.
    fn default() -> Self {
        Self { spin: SPIN_DEFAULT, park: true }
    }
}

/// How one request is to be treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestOptions {
    /// How long the whole answer may take, from the call on. `None`: as long as it likes.
    ///
    /// The daemon is told, in whole milliseconds rounded up, and the client enforces it too.
    pub deadline: Option<Duration>,
}

impl RequestOptions {
    /// No deadline.
    pub const NONE: Self = Self { deadline: None };

    /// The answer has to be whole within `deadline`.
    #[must_use]
    pub const fn within(deadline: Duration) -> Self {
        Self { deadline: Some(deadline) }
    }

    /// When the deadline falls, if there is one. Reads the clock only then.
    #[inline]
    pub(super) fn deadline_at(&self) -> Option<Instant> {
        // Note: a deadline beyond what the clock can express is none.
        self.deadline.and_then(|deadline| Instant::now().checked_add(deadline))
    }
}

/// Where to connect and how, in builder style.
///
/// ```
/// use annulus::client::{ConnectOptions, WaitPolicy};
///
/// let options = ConnectOptions::new()
///     .socket_path("/run/user/1000/annulus/annulus.sock")
///     .wait(WaitPolicy::PARK);
/// ```
#[derive(Clone)]
pub struct ConnectOptions {
    socket_path: Option<PathBuf>,
    pub(super) request_capacity: u64,
    pub(super) response_capacity: u64,
    pub(super) payload_check: bool,
    pub(super) codec_id: CodecId,
    codec: Option<Arc<dyn Codec>>,
    pub(super) wait: WaitPolicy,
    pub(super) connect_timeout: Duration,
}

impl ConnectOptions {
    /// The defaults: the user's daemon, rings of 16 MiB, JSON, 50 µs of polling, 2 s to connect.
    #[must_use]
    pub fn new() -> Self {
        Self {
            socket_path: None,
            request_capacity: RING_CAPACITY_DEFAULT,
            response_capacity: RING_CAPACITY_DEFAULT,
            payload_check: false,
            codec_id: CodecId::JSON,
            codec: None,
            wait: WaitPolicy::default(),
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
        }
    }

    /// Connects to this socket rather than to [`SOCKET_PATH_VARIABLE`]'s or the standard one.
    #[must_use]
    pub fn socket_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket_path = Some(path.into());
        self
    }

    /// Bytes of the request ring: a power of two, 16 KiB to 128 MiB. Untouched pages cost nothing.
    ///
    /// A request can be as large as the ring less 96 bytes, if the daemon allows that much.
    #[must_use]
    pub const fn request_capacity(mut self, capacity: u64) -> Self {
        self.request_capacity = capacity;
        self
    }

    /// Bytes of the response ring: a power of two, 16 KiB to 128 MiB. Untouched pages cost nothing.
    #[must_use]
    pub const fn response_capacity(mut self, capacity: u64) -> Self {
        self.response_capacity = capacity;
        self
    }

    /// Asks for CRC-32C over payloads both ways. Headers are always checked.
    #[must_use]
    pub const fn payload_check(mut self, payload_check: bool) -> Self {
        self.payload_check = payload_check;
        self
    }

    /// The codec of AI payloads, one of this crate's.
    #[must_use]
    pub fn codec(mut self, codec: CodecId) -> Self {
        self.codec_id = codec;
        self.codec = None;
        self
    }

    /// The codec of AI payloads, one of your own that the daemon has too.
    #[must_use]
    pub fn with_codec(mut self, codec: Arc<dyn Codec>) -> Self {
        self.codec_id = codec.id();
        self.codec = Some(codec);
        self
    }

    /// How this connection waits for answers.
    #[must_use]
    pub const fn wait(mut self, wait: WaitPolicy) -> Self {
        self.wait = wait;
        self
    }

    /// How long connecting and the handshake may take together.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Where these options lead: what was set, else the environment's, else the standard place.
    ///
    /// # Errors
    ///
    /// [`IpcError::Io`]: there is no standard place, or the path is longer than a socket's may be.
    pub fn resolved_socket_path(&self) -> Result<PathBuf, IpcError> {
        let named = self.socket_path.clone().or_else(|| {
            env::var_os(SOCKET_PATH_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
        });
        let path = match named {
            Some(path) => check_socket_path(&path).map(|()| path),
            None => Places::of_process().socket().map(|place| place.path),
        };
        path.map_err(std::io::Error::other)
            .map_err(IpcError::io("find", "the path of the daemon's socket"))
    }

    /// The layout that these capacities give.
    ///
    /// # Errors
    ///
    /// [`IpcError::InvalidRequest`]: a capacity that no daemon accepts.
    pub(super) fn layout(&self) -> Result<RegionLayout, IpcError> {
        let allowed = |capacity: u64| {
            capacity.is_power_of_two()
                && (RING_CAPACITY_MIN..=RING_CAPACITY_MAX).contains(&capacity)
        };
        if allowed(self.request_capacity) && allowed(self.response_capacity) {
            return Ok(RegionLayout::new(self.request_capacity, self.response_capacity));
        }
        let (request, response) = (self.request_capacity, self.response_capacity);
        Err(IpcError::InvalidRequest {
            detail: format!(
                "ring capacities {request} and {response}: allowed are powers of two from \
                 {RING_CAPACITY_MIN} to {RING_CAPACITY_MAX}"
            ),
        })
    }

    /// The codec itself; `None` for an id that names none of this crate's.
    pub(super) fn resolved_codec(&self) -> Option<Arc<dyn Codec>> {
        if let Some(codec) = &self.codec {
            return Some(Arc::clone(codec));
        }
        match self.codec_id {
            CodecId::JSON => Some(Arc::new(JsonCodec)),
            CodecId::RKYV => Some(Arc::new(RkyvCodec)),
            _ => None,
        }
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("socket_path", &self.socket_path)
            .field("request_capacity", &self.request_capacity)
            .field("response_capacity", &self.response_capacity)
            .field("payload_check", &self.payload_check)
            .field("codec", &self.codec_id)
            .field("wait", &self.wait)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_that_no_daemon_accepts_is_refused_here() {
        for capacity in [0, 3 << 20, RING_CAPACITY_MIN / 2, RING_CAPACITY_MAX * 2] {
            let options = ConnectOptions::new().request_capacity(capacity);
            assert!(matches!(options.layout(), Err(IpcError::InvalidRequest { .. })));
            let options = ConnectOptions::new().response_capacity(capacity);
            assert!(matches!(options.layout(), Err(IpcError::InvalidRequest { .. })));
        }
    }

    #[test]
    fn a_path_that_was_set_wins_and_is_held_to_its_length() {
        let options = ConnectOptions::new().socket_path("/x/y.sock");
        assert_eq!(options.resolved_socket_path().unwrap(), PathBuf::from("/x/y.sock"));
        let options = ConnectOptions::new().socket_path(format!("/{}", "x".repeat(200)));
        assert!(matches!(options.resolved_socket_path(), Err(IpcError::Io { .. })));
    }

    #[test]
    fn codecs_of_this_crate_are_found_by_their_id() {
        for id in [CodecId::JSON, CodecId::RKYV] {
            let codec = ConnectOptions::new().codec(id).resolved_codec().unwrap();
            assert_eq!(codec.id(), id);
        }
        assert!(ConnectOptions::new().codec(CodecId(200)).resolved_codec().is_none());
    }

    #[test]
    fn a_deadline_beyond_the_clock_is_none() {
        assert_eq!(RequestOptions::within(Duration::MAX).deadline_at(), None);
        assert_eq!(RequestOptions::NONE.deadline_at(), None);
    }
}
