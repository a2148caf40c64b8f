//! What can go wrong between a client and the daemon, for both sides' public interfaces.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::protocol::CodecError;
use crate::wire::{Fault, Goodbye, Status};

/// An error of the IPC layer. Never carries a prompt, an answer or a key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IpcError {
    /// The system refused an operation.
    #[error("{operation} {object}: {source}")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what: a path, an address, a limit.
        object: String,
        /// Why not.
        source: io::Error,
    },
    /// No daemon listens there.
    #[error("no daemon at {}: start one with `annulus serve`", .socket_path.display())]
    NotRunning {
        /// The socket that was tried.
        socket_path: PathBuf,
    },
    /// A daemon listens there already.
    #[error(
        "a daemon already serves {}: stop it, or set ipc.socket_path to another path",
        .socket_path.display()
    )]
    AlreadyRunning {
        /// Its socket.
        socket_path: PathBuf,
    },
    /// The payload is larger than the connection takes; it was not sent.
    #[error("message of {size} bytes is larger than the limit of {max} (ipc.max_message_size)")]
    MessageTooLarge {
        /// Bytes of the payload.
        size: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The daemon has no handler for the request's type.
    #[error("the daemon has no handler for this message type")]
    UnknownMessageType,
    /// The handler panicked; the connection goes on.
    #[error("the daemon's handler panicked on this request")]
    HandlerPanic,
    /// The answer was not whole before the deadline; the request was cancelled.
    #[error("the request's deadline passed before its answer was whole")]
    Timeout,
    /// The request was cancelled.
    #[error("the request was cancelled")]
    Cancelled,
    /// A limit of the daemon is reached.
    #[error("the daemon is busy: try again {}", when(*.retry_after))]
    Busy {
        /// When another try makes sense; zero: as soon as one of the connection's requests, of which
        /// it has as many unanswered as it may, is answered.
        retry_after: Duration,
    },
    /// The request does not decode or asks for what cannot be.
    #[error("invalid request: {detail}")]
    InvalidRequest {
        /// What is wrong with it.
        detail: String,
    },
    /// A handler failed.
    #[error("the request failed: {detail}")]
    Internal {
        /// What the handler said.
        detail: String,
    },
    /// The provider behind the request failed.
    #[error("the provider failed: {detail}")]
    ProviderFailed {
        /// What the provider shard said.
        detail: String,
    },
    /// The daemon is stopping and takes no new requests.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The connection ended before the answer was whole.
    #[error("connection lost: {reason}")]
    ConnectionLost {
        /// What the daemon said last, or that it said nothing.
        reason: String,
    },
    /// The peer broke the protocol.
    #[error("protocol fault: {0}")]
    Fault(#[from] Fault),
    /// The daemon refused the handshake.
    #[error("the daemon refused the connection: {status}{}", reason_suffix(.fault))]
    Refused {
        /// Why.
        status: Status,
        /// With [`Status::RegionRefused`] or [`Status::Fault`]: the fault's name.
        fault: Option<&'static str>,
    },
    /// A payload does not encode or decode.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

fn reason_suffix(fault: &Option<&'static str>) -> String {
    fault.map(|name| format!(" ({name})")).unwrap_or_default()
}

/// What to wait for before another try.
fn when(retry_after: Duration) -> String {
    if retry_after.is_zero() {
        return "when one of the requests in flight is answered".to_owned();
    }
    format!("in {}", in_milliseconds(retry_after))
}

/// Rounded up, so that nobody comes too early.
fn in_milliseconds(duration: Duration) -> String {
    format!("{} ms", duration.as_nanos().div_ceil(1_000_000))
}

impl IpcError {
    /// An [`IpcError::Io`] in the making: `.map_err(IpcError::io("bind", path))`.
    pub fn io<E: Into<io::Error>>(
        operation: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let object = object.into();
        move |source| Self::Io { operation, object, source: source.into() }
    }

    /// The error that an answer's status and text stand for; `None` for [`Status::Ok`]. A *busy* whose
    /// text names no time has `retry_after`.
    #[must_use]
    pub fn from_answer(status: Status, detail: &[u8], retry_after: Duration) -> Option<Self> {
        let told = || wait_of(detail);
        let detail = || String::from_utf8_lossy(detail).into_owned();
        Some(match status {
            Status::Ok => return None,
            Status::UnknownMessageType => Self::UnknownMessageType,
            Status::HandlerPanic => Self::HandlerPanic,
            Status::Timeout => Self::Timeout,
            Status::Cancelled => Self::Cancelled,
            Status::Busy => Self::Busy { retry_after: told().unwrap_or(retry_after) },
            Status::InvalidRequest | Status::MessageTooLarge => {
                Self::InvalidRequest { detail: detail() }
            }
            Status::ShuttingDown => Self::ShuttingDown,
            Status::ProviderFailed => Self::ProviderFailed { detail: detail() },
            _ => Self::Internal { detail: detail() },
        })
    }

    /// The text of the answer to a request that failed like this: what its status does not say, so
    /// that [`IpcError::from_answer`] makes the same error of both.
    #[must_use]
    pub fn answer_text(&self) -> String {
        match self {
            Self::InvalidRequest { detail }
            | Self::Internal { detail }
            | Self::ProviderFailed { detail } => detail.clone(),
            Self::Busy { retry_after } => in_milliseconds(*retry_after),
            _ => self.to_string(),
        }
    }

    /// The error that a connection's last word stands for.
    #[must_use]
    pub fn from_goodbye(goodbye: Option<&Goodbye>) -> Self {
        let Some(goodbye) = goodbye else {
            return Self::ConnectionLost { reason: "the daemon went away without a word".into() };
        };
        match Status::from_wire(goodbye.status) {
            Status::ShuttingDown => Self::ShuttingDown,
            Status::Busy => {
                Self::Busy { retry_after: Duration::from_millis(u64::from(goodbye.retry_after_ms)) }
            }
            status => {
                let fault = reason_suffix(&goodbye.fault_name());
                Self::ConnectionLost { reason: format!("the daemon closed it: {status}{fault}") }
            }
        }
    }

    /// The status with which the daemon answers a request that failed like this.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::MessageTooLarge { .. } => Status::MessageTooLarge,
            Self::UnknownMessageType => Status::UnknownMessageType,
            Self::HandlerPanic => Status::HandlerPanic,
            Self::Timeout => Status::Timeout,
            Self::Cancelled => Status::Cancelled,
            Self::Busy { .. } => Status::Busy,
            Self::InvalidRequest { .. } | Self::Codec(_) => Status::InvalidRequest,
            Self::ProviderFailed { .. } => Status::ProviderFailed,
            Self::ShuttingDown => Status::ShuttingDown,
            Self::Fault(_) => Status::Fault,
            _ => Status::Internal,
        }
    }
}

/// The time that the text of a *busy* answer names: `250 ms`.
fn wait_of(text: &[u8]) -> Option<Duration> {
    let number = str::from_utf8(text).ok()?.strip_suffix(" ms")?;
    number.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ok_answer_is_no_error_and_every_other_status_is_one() {
        let error = |status| IpcError::from_answer(status, b"text", Duration::ZERO);
        assert!(error(Status::Ok).is_none());
        assert!(Status::ALL[1..].iter().all(|status| error(*status).is_some()));
    }

    #[test]
    fn answer_errors_keep_their_status_on_the_way_back() {
        for status in [
            Status::UnknownMessageType,
            Status::HandlerPanic,
            Status::Timeout,
            Status::Cancelled,
            Status::Busy,
            Status::InvalidRequest,
            Status::ProviderFailed,
            Status::ShuttingDown,
            Status::Internal,
        ] {
            let error = IpcError::from_answer(status, b"", Duration::ZERO).unwrap();
            assert_eq!(error.status(), status);
        }
    }

    #[test]
    fn busy_says_what_to_wait_for() {
        let text = |retry_after| IpcError::Busy { retry_after }.to_string();
        assert_eq!(text(Duration::from_millis(20)), "the daemon is busy: try again in 20 ms");
        assert_eq!(
            text(Duration::ZERO),
            "the daemon is busy: try again when one of the requests in flight is answered"
        );
    }

    #[test]
    fn an_error_is_the_same_on_both_sides_of_an_answer() {
        let detail = || "gone".to_owned();
        let ms = Duration::from_millis;
        for error in [
            IpcError::InvalidRequest { detail: detail() },
            IpcError::Internal { detail: detail() },
            IpcError::ProviderFailed { detail: detail() },
            IpcError::Busy { retry_after: ms(2_500) },
            IpcError::Timeout,
        ] {
            let text = error.answer_text();
            let again = IpcError::from_answer(error.status(), text.as_bytes(), ms(100)).unwrap();
            assert_eq!(again.to_string(), error.to_string());
        }
        let error = IpcError::Busy { retry_after: Duration::from_micros(1) };
        assert_eq!(error.answer_text(), "1 ms", "never too early");
        for text in ["", "soon", "-1 ms", "1ms", "99999999999999999999 ms"] {
            let error = IpcError::from_answer(Status::Busy, text.as_bytes(), ms(100)).unwrap();
            assert!(matches!(error, IpcError::Busy { retry_after } if retry_after == ms(100)));
        }
    }

    #[test]
    fn a_goodbye_names_its_fault() {
        let error = IpcError::from_goodbye(Some(&Goodbye::for_fault(Fault::SocketBytes)));
        assert_eq!(
            error.to_string(),
            "connection lost: the daemon closed it: fault (socket_bytes)"
        );
        assert!(IpcError::from_goodbye(None).to_string().contains("without a word"));
    }
}
