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
    #[error("the daemon is busy: try again in {} ms", .retry_after.as_millis())]
    Busy {
        /// When another try makes sense.
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

/// The wait at the end of the text of [`IpcError::Busy`].
fn wait_named_in(text: String) -> Option<Duration> {
    let (_, wait) = text.rsplit_once(": try again in ")?;
    Some(Duration::from_millis(wait.strip_suffix(" ms")?.parse().ok()?))
}

fn reason_suffix(fault: &Option<&'static str>) -> String {
    fault.map(|name| format!(" ({name})")).unwrap_or_default()
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

    /// The error that an answer's status and text stand for; `None` for [`Status::Ok`]. The wait of a
    /// busy answer is the one that its text names, such as a provider's own, else `retry_after`.
    #[must_use]
    pub fn from_answer(status: Status, detail: &[u8], retry_after: Duration) -> Option<Self> {
        let detail = || String::from_utf8_lossy(detail).into_owned();
        Some(match status {
            Status::Ok => return None,
            Status::UnknownMessageType => Self::UnknownMessageType,
            Status::HandlerPanic => Self::HandlerPanic,
            Status::Timeout => Self::Timeout,
            Status::Cancelled => Self::Cancelled,
            Status::Busy => {
                Self::Busy { retry_after: wait_named_in(detail()).unwrap_or(retry_after) }
            }
            Status::InvalidRequest | Status::MessageTooLarge => {
                Self::InvalidRequest { detail: detail() }
            }
            Status::ShuttingDown => Self::ShuttingDown,
            Status::ProviderFailed => Self::ProviderFailed { detail: detail() },
            _ => Self::Internal { detail: detail() },
        })
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
    fn a_busy_answer_says_how_long_if_its_text_does() {
        let usual = Duration::from_millis(100);
        let wait = |text: &str| match IpcError::from_answer(Status::Busy, text.as_bytes(), usual) {
            Some(IpcError::Busy { retry_after }) => retry_after,
            other => panic!("{other:?}"),
        };
        let said = IpcError::Busy { retry_after: Duration::from_secs(100) }.to_string();
        assert_eq!(wait(&said), Duration::from_secs(100));
        for text in ["", "too many requests in flight", "busy: try again in a while"] {
            assert_eq!(wait(text), usual, "{text}");
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
