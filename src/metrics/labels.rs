//! The label values, all known at build time: a page's size depends on the code, never on a peer.
//!
//! A new value is one line here. Values say *what kind*, never *who*: no user, session or path.

/// Declares an enum whose variants are the values of one label.
macro_rules! label_set {
    ($(#[$about:meta])* $name:ident { $($(#[$value_about:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$value_about])* $variant,)* }

        impl $name {
            /// Every value, in the order of the page.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// How many values there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The text on the page.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

label_set! {
    /// Label `type`: what a request asks for.
    MessageKind {
        /// Returns its payload.
        Echo = "echo",
        /// Shows that the peer is alive.
        Heartbeat = "heartbeat",
        /// A model's answer in one piece.
        Complete = "complete",
        /// A model's answer in reply chunks.
        Stream = "stream",
        /// Withdraws an earlier request.
        Cancel = "cancel",
        /// Any other built-in type, such as a request for these metrics.
        Builtin = "builtin",
        /// Every type in the users' range, in one row: a user's type is a number that a peer picks.
        User = "user",
    }
}

label_set! {
    /// Label `status`: how a request failed.
    ErrorStatus {
        /// Over the largest allowed message.
        TooLarge = "too_large",
        /// No handler for this type.
        UnknownType = "unknown_type",
        /// The handler panicked; the connection went on.
        HandlerPanic = "handler_panic",
        /// The deadline passed first.
        Timeout = "timeout",
        /// The client withdrew it, or died.
        Cancelled = "cancelled",
        /// A bound was reached; the client may try again.
        Busy = "busy",
        /// The payload did not decode.
        Invalid = "invalid",
        /// The daemon's own failure.
        Internal = "internal",
        /// No provider could serve it.
        Unavailable = "unavailable",
    }
}

label_set! {
    /// Label `reason`: why a connection ended, or never began.
    CloseReason {
        /// The client hung up, in order or by dying.
        ClientLeft = "client_left",
        /// Quiet for longer than the idle timeout.
        Idle = "idle",
        /// The peer broke the protocol.
        Fault = "fault",
        /// A frame over the largest allowed message.
        TooLarge = "too_large",
        /// The daemon is stopping.
        Shutdown = "shutdown",
        /// Never opened: the connection table was full.
        RefusedBusy = "refused_busy",
        /// Never opened: the handshake failed.
        RefusedHandshake = "refused_handshake",
    }
}

impl CloseReason {
    /// Whether the connection was turned away before it opened, so that no open one is now gone.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::RefusedBusy | Self::RefusedHandshake)
    }
}

label_set! {
    /// Label `tier`: which part of the buffer pool, by the size of its buffers.
    LeaseTier {
        /// 4,096 bytes.
        Kib4 = "4KiB",
        /// 65,536 bytes.
        Kib64 = "64KiB",
        /// 1,048,576 bytes.
        Mib1 = "1MiB",
        /// Up to the largest allowed message; mapped, and given back to the kernel after use.
        Mapped = "mapped",
    }
}

label_set! {
    /// Label `outcome`: how one request to a provider ended.
    ProviderOutcome {
        /// With a whole answer.
        Success = "success",
        /// The request cannot be answered by anybody.
        BadRequest = "bad_request",
        /// The key is wrong, or may not do this.
        Auth = "auth",
        /// The account has nothing left.
        Quota = "quota",
        /// Too many requests or tokens for now.
        RateLimited = "rate_limited",
        /// The provider has too much to do.
        Overloaded = "overloaded",
        /// The provider failed.
        Server = "server",
        /// No connection, or it broke.
        Network = "network",
        /// Nothing came for too long.
        Stalled = "stalled",
        /// The answer was cut short.
        Incomplete = "incomplete",
        /// The answer cannot be read.
        BadStream = "bad_stream",
        /// The client went away or asked to stop.
        Cancelled = "cancelled",
    }
}

label_set! {
    /// Label `state`: what the circuit breaker of a provider's endpoint does with requests.
    EndpointState {
        /// Lets all through.
        Closed = "closed",
        /// Lets none through.
        Open = "open",
        /// Lets one through at a time.
        HalfOpen = "half_open",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_label_differ_and_index_their_rows() {
        fn check(labels: &[&str], indexes: &[usize]) {
            for (row, (label, &index)) in labels.iter().zip(indexes).enumerate() {
                assert_eq!(row, index, "{label}");
                assert!(!labels[..row].contains(label), "{label} twice");
            }
        }
        macro_rules! check_all {
            ($($set:ident),*) => {$(
                check(
                    &$set::ALL.iter().map(|value| value.label()).collect::<Vec<_>>(),
                    &$set::ALL.iter().map(|&value| value as usize).collect::<Vec<_>>(),
                );
            )*};
        }
        check_all!(
            MessageKind,
            ErrorStatus,
            CloseReason,
            LeaseTier,
            ProviderOutcome,
            EndpointState
        );
    }
}
