//! What a request that got no response may do next: whether another connection may carry it.
//!
//! The invariant to remember: a request goes out again without a limit of its own only when no server
//! has begun with it, by the server's own word or because it was never sent.

/// Why a request got no response; over HTTP/1 it is one of the last two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The server has as many streams as it takes, and did not begin with this one (RFC 9113 §8.7).
    Crowded,
    /// The server's word about this request; the connection is well.
    Reset,
    /// The connection took it no more, or the server went away without having begun with it: its
    /// stream came after the last that the GOAWAY counts (RFC 9113 §6.8).
    Unprocessed,
    /// The connection's end, which says nothing about the request.
    Broken,
}

/// What may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    None,
    /// The server has not begun with the request: it may be sent again.
    Resend,
    /// The connection had been kept, and died before anything came: another one may do better.
    Replace,
}

impl Unanswered {
    /// What hyper's error means; `is_unsent` when it gave the request back.
    pub(super) fn of(error: &hyper::Error, is_unsent: bool) -> Self {
        let cause = std::error::Error::source(error);
        match cause.and_then(|cause| cause.downcast_ref::<h2::Error>()) {
            Some(cause) if cause.is_reset() => {
                let is_refused = cause.reason() == Some(h2::Reason::REFUSED_STREAM);
                if is_refused && cause.is_remote() { Self::Crowded } else { Self::Reset }
            }
            // Only streams above the last one of the GOAWAY end with it.
            Some(cause) if cause.is_go_away() && cause.is_remote() => Self::Unprocessed,
            // hyper's own error: it had the request, and no stream for it yet.
            _ if is_unsent || error.is_user() => Self::Unprocessed,
            _ => Self::Broken,
        }
    }

    /// What it leaves to do; `is_reused` when the connection had been there before the request, and over
    /// HTTP/1 brought nothing since.
    pub(super) const fn remedy(self, is_reused: bool) -> Remedy {
        match self {
            Self::Crowded | Self::Unprocessed => Remedy::Resend,
            Self::Broken if is_reused => Remedy::Replace,
            Self::Broken | Self::Reset => Remedy::None,
        }
    }
}
