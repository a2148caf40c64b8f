//! What providers want back with their tool calls, kept between two requests of a conversation.

use std::sync::OnceLock;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::dialect::{Keepsake, Keepsakes};

/// How many are kept.
const COUNT_MAX: u64 = 4096;
/// Bytes of all of them together.
const SIZE_MAX: u64 = 16 << 20;
/// Bytes of one; a larger one is not kept, and the provider does without it.
const KEEPSAKE_SIZE_MAX: usize = 1 << 20;
/// How long one is kept: longer than anybody looks at a proposed tool call.
const KEPT_FOR: Duration = Duration::from_secs(60 * 60);

type Entries = Cache<String, (&'static str, Keepsake)>;

/// Keepsakes by the id of their call: the latest [`COUNT_MAX`], for an hour.
///
/// A conversation that has outlived them goes on without: providers answer, if less well. Takes no
/// memory before there is something to keep.
#[derive(Default)]
pub(super) struct KeepsakeTable {
    entries: OnceLock<Entries>,
}

impl KeepsakeTable {
    /// Keeps what a provider of this kind wants back with the call of this id.
    pub(super) fn keep(&self, kind: &'static str, call_id: String, keepsake: Keepsake) {
        if size(&keepsake) <= KEEPSAKE_SIZE_MAX {
            self.entries.get_or_init(entries).insert(call_id, (kind, keepsake));
        }
    }
}

impl Keepsakes for KeepsakeTable {
    fn find(&self, kind: &str, call_id: &str) -> Option<Keepsake> {
        let entry = self.entries.get()?.get(call_id);
        // Another vendor has no use for it.
        entry.filter(|(own, _)| *own == kind).map(|(_, keepsake)| keepsake)
    }
}

fn entries() -> Entries {
    let weigh = |id: &String, (_, keepsake): &(&'static str, Keepsake)| {
        // Both bounds in one: nobody weighs less than their share of the places.
        let size = (id.len() + size(keepsake)) as u64;
        u32::try_from(size.max(SIZE_MAX / COUNT_MAX)).unwrap_or(u32::MAX)
    };
    Cache::builder()
        .max_capacity(SIZE_MAX)
        .time_to_live(KEPT_FOR)
        // The latest are those that come back, however often the others did.
        .eviction_policy(EvictionPolicy::lru())
        .weigher(weigh)
        .build()
}

fn size(keepsake: &Keepsake) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    length(&keepsake.signature) + length(&keepsake.reasoning)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepsake(text: &str) -> Keepsake {
        Keepsake { signature: Some(text.into()), reasoning: None }
    }

    #[test]
    fn a_keepsake_goes_back_to_its_own_kind_only() {
        let table = KeepsakeTable::default();
        table.keep("gemini", "a".into(), keepsake("s"));
        assert_eq!(table.find("gemini", "a"), Some(keepsake("s")));
        assert_eq!(table.find("gemini", "b"), None);
        assert_eq!(table.find("anthropic", "a"), None);
    }

    #[test]
    fn the_table_is_bounded_in_places_and_in_bytes_and_the_latest_stay() {
        for (count, text) in [(2 * COUNT_MAX, "s".to_owned()), (64, "s".repeat(1 << 20))] {
            let table = KeepsakeTable::default();
            for index in 0..count {
                table.keep("gemini", index.to_string(), keepsake(&text));
                if index % 16 == 15 {
                    table.entries.get().unwrap().run_pending_tasks();
                }
            }
            let entries = table.entries.get().unwrap();
            assert!(entries.entry_count() <= COUNT_MAX && entries.entry_count() >= 14);
            assert!(entries.weighted_size() <= SIZE_MAX);
            assert!(table.find("gemini", &(count - 1).to_string()).is_some());
            assert!(table.find("gemini", "0").is_none());
        }
    }

    #[test]
    fn a_keepsake_too_large_is_not_kept() {
        let table = KeepsakeTable::default();
        table.keep("gemini", "a".into(), keepsake(&"s".repeat(KEEPSAKE_SIZE_MAX + 1)));
        assert_eq!(table.find("gemini", "a"), None);
    }
}
