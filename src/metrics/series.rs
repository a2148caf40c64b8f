//! The table of plain series. **Adding one is one line here**: the field that the shard writes, the
//! name on the page (`annulus_` and the field's name), its type and its help text come from it.

use super::instrument::{Counter, Gauge};

/// One row of a block's table: how to show one of its fields.
pub(super) struct Series<Block> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: SeriesKind,
    pub(super) value: fn(&Block) -> u64,
}

/// The types of the exposition format that Annulus uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeriesKind {
    Counter,
    Gauge,
    Histogram,
}

impl Counter {
    const KIND: SeriesKind = SeriesKind::Counter;
}

impl Gauge {
    const KIND: SeriesKind = SeriesKind::Gauge;
}

/// Declares a block of instruments that one writer owns, and its table.
macro_rules! series {
    ($(#[$about:meta])* $block:ident { $($field:ident: $instrument:ident, $help:literal;)* }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub struct $block { $(#[doc = $help] pub $field: $instrument,)* }

        impl $block {
            pub(super) const SERIES: &'static [Series<Self>] = &[$(Series {
                name: concat!("annulus_", stringify!($field)),
                help: $help,
                kind: $instrument::KIND,
                value: |block| block.$field.value(),
            },)*];
        }
    };
}

series! {
    /// What one shard carries for one message type. On the page: label `type`, summed over shards.
    Traffic {
        requests_total: Counter, "Requests taken from clients.";
        responses_total: Counter, "Response frames published to clients, each reply chunk being one.";
        request_bytes_total: Counter, "Payload bytes of requests, frame headers excluded.";
        response_bytes_total: Counter, "Payload bytes of responses, frame headers excluded.";
    }
}

series! {
    /// What one shard does. On the page: label `shard`.
    Activity {
        connections_open: Gauge, "Connections open now.";
        connections_accepted_total: Counter, "Connections opened after a good handshake.";
        turns_total: Counter, "Turns of the shard's loop, each a bounded pass over its connections.";
        parks_total: Counter, "Times that the shard found nothing to do and waited in the kernel.";
        doorbells_sent_total: Counter, "Doorbells rung because the client was parked.";
        doorbells_suppressed_total: Counter, "Doorbells saved: the client was polling, or there was nothing for it.";
        doorbells_received_total: Counter, "Doorbells that clients rang for the shard.";
        backpressure_total: Counter, "Times that a full ring or pool made a frame wait.";
    }
}

series! {
    /// One shard's use of one tier of the buffer pool. On the page: labels `shard` and `tier`.
    TierUse {
        leases_in_use: Gauge, "Leases held now.";
        lease_misses_total: Counter, "Times that a request wanted a lease and none was free, each new try included.";
    }
}

series! {
    /// What one provider is asked. On the page: label `provider`.
    ProviderUse {
        provider_in_flight: Gauge, "Requests to the provider under way.";
        provider_retries_total: Counter, "Requests sent again to an endpoint that had failed them.";
        provider_failovers_total: Counter, "Requests that went elsewhere after the provider failed them.";
        provider_breaker_rejections_total: Counter, "Times that an open circuit breaker kept a request from an endpoint.";
        provider_cache_hits_total: Counter, "Answers taken from the response cache.";
        provider_cache_misses_total: Counter, "Cacheable requests whose answer was not in the cache.";
        provider_input_tokens_total: Counter, "Tokens of requests that were answered.";
        provider_output_tokens_total: Counter, "Tokens of answers.";
    }
}
