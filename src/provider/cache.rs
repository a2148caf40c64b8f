//! The response cache: an answer that was given once is given again, without asking anybody.
//!
//! Off by default. Only for requests whose answer does not hang on chance (a temperature of 0) and
//! that can set nothing in motion (no tools), and only whole answers. The invariant to remember:
//! **an answer is found only under the very request, provider, model and key that it was given to**;
//! the whole of that is the key and is compared, so no collision of a hash can mix two answers.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::protocol::{AIRequest, FinishReason, StreamEvent};

/// The share of the whole cache that one answer may have.
const ENTRY_SHARE: u64 = 8;

/// `[cache]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSettings {
    /// Bytes of all requests and answers that are kept.
    pub size_max: u64,
    /// How long an answer is kept.
    pub ttl: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { size_max: 64 << 20, ttl: Duration::from_secs(3600) }
    }
}

/// Whose answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Identity<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// The model as the provider knows it.
    pub model: &'a str,
    /// Which of the provider's keys, by its place in the list.
    pub key: usize,
    /// Which key was there: a replaced key is another one.
    pub key_version: u32,
}

/// A request's text for the cache: its JSON with sorted keys, without what does not change the
/// answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question(Vec<u8>);

impl Question {
    /// The question of a cacheable request; `None` of any other.
    #[must_use]
    pub fn of(request: &AIRequest) -> Option<Self> {
        let has_tools = request.tools.as_ref().is_some_and(|tools| !tools.is_empty());
        if request.temperature != Some(0.0) || has_tools {
            return None;
        }
        // Sorted, because `serde_json::Map` is.
        let mut json = serde_json::to_value(request).ok()?;
        let fields = json.as_object_mut()?;
        // The model is part of the identity; how the answer is sent does not matter.
        fields.remove("model");
        fields.remove("stream");
        serde_json::to_vec(&json).ok().map(Self)
    }
}

/// What an answer is found under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey(Box<[u8]>);

impl CacheKey {
    /// The key of a question to somebody.
    #[must_use]
    pub fn new(identity: &Identity<'_>, question: &Question) -> Option<Self> {
        // JSON has no bare line feed, so that the two parts cannot run into each other.
        let mut key = serde_json::to_vec(identity).ok()?;
        key.push(b'\n');
        key.extend_from_slice(&question.0);
        Some(Self(key.into()))
    }
}

#[derive(Clone)]
struct Entry {
    events: Arc<[StreamEvent]>,
    size: usize,
    stored: Duration,
}

/// See the module. Cheap to ask from any thread; time is an argument.
pub struct ResponseCache {
    entries: Cache<CacheKey, Entry>,
    settings: CacheSettings,
}

impl ResponseCache {
    /// An empty cache.
    #[must_use]
    pub fn new(settings: CacheSettings) -> Self {
        let weigh = |key: &CacheKey, entry: &Entry| {
            u32::try_from(key.0.len() + entry.size).unwrap_or(u32::MAX)
        };
        let entries = Cache::builder()
            .max_capacity(settings.size_max)
            // Gives the memory back; whether an answer may be used is asked of the caller's clock.
            .time_to_live(settings.ttl)
            .weigher(weigh)
            .build();
        Self { entries, settings }
    }

    /// The answer that is kept under this key, if it is not too old.
    #[must_use]
    pub fn find(&self, key: &CacheKey, now: Duration) -> Option<Arc<[StreamEvent]>> {
        let entry = self.entries.get(key)?;
        if now.saturating_sub(entry.stored) >= self.settings.ttl {
            self.entries.invalidate(key);
            return None;
        }
        Some(entry.events)
    }

    /// Begins to write an answer down.
    #[must_use]
    pub fn record(&self, key: CacheKey) -> Recording {
        let size_max = usize::try_from(self.settings.size_max / ENTRY_SHARE).unwrap_or(usize::MAX);
        Recording {
            size_max: size_max.saturating_sub(key.0.len()),
            key,
            events: Vec::new(),
            size: 0,
        }
    }

    /// Keeps an answer, if it is whole and was not cut short.
    pub fn store(&self, recording: Recording, now: Duration) {
        let Recording { key, events, size, size_max } = recording;
        let is_whole = matches!(
            events.last(),
            Some(StreamEvent::End { finish_reason: FinishReason::Stop | FinishReason::Length, .. })
        );
        if is_whole && size <= size_max {
            self.entries.insert(key, Entry { events: events.into(), size, stored: now });
        }
    }

    /// Answers that are kept, once everything pending is done.
    #[cfg(test)]
    fn settled(&self) -> (u64, u64) {
        self.entries.run_pending_tasks();
        (self.entries.entry_count(), self.entries.weighted_size())
    }
}

/// An answer that is being written down.
pub struct Recording {
    key: CacheKey,
    events: Vec<StreamEvent>,
    size: usize,
    size_max: usize,
}

impl Recording {
    /// Writes one event down. An answer that has become too large is forgotten.
    pub fn note(&mut self, event: &StreamEvent) {
        self.size =
            self.size.saturating_add(size_of::<StreamEvent>()).saturating_add(match event {
                StreamEvent::Text { text } | StreamEvent::Reasoning { text } => text.len(),
                // There are none without tools; a provider's own are not kept.
                StreamEvent::ToolCall { .. } => usize::MAX,
                StreamEvent::End { model, .. } => model.len(),
            });
        if self.size > self.size_max {
            self.events = Vec::new();
        } else {
            self.events.push(event.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Message, MessageRole, Tool, Usage};

    const NOW: Duration = Duration::from_secs(5);

    fn request(text: &str) -> AIRequest {
        let mut request = AIRequest::new("m", vec![Message::new(MessageRole::User, text)]);
        request.temperature = Some(0.0);
        request
    }

    fn identity() -> Identity<'static> {
        Identity { provider: "p", model: "m", key: 0, key_version: 1 }
    }

    fn key(identity: Identity<'_>, request: &AIRequest) -> CacheKey {
        CacheKey::new(&identity, &Question::of(request).unwrap()).unwrap()
    }

    fn text(text: &str) -> StreamEvent {
        StreamEvent::Text { text: text.into() }
    }

    fn end(finish_reason: FinishReason) -> StreamEvent {
        StreamEvent::End { finish_reason, usage: Usage::default(), model: "m".into() }
    }

    fn store(cache: &ResponseCache, key: CacheKey, events: &[StreamEvent]) {
        let mut recording = cache.record(key);
        events.iter().for_each(|event| recording.note(event));
        cache.store(recording, NOW);
    }

    #[test]
    fn a_whole_answer_is_found_again_as_the_same_events() {
        let cache = ResponseCache::new(CacheSettings::default());
        let key = key(identity(), &request("hello"));
        assert!(cache.find(&key, NOW).is_none());
        let events = [text("a"), text("b"), end(FinishReason::Stop)];
        store(&cache, key.clone(), &events);
        assert_eq!(&*cache.find(&key, NOW).unwrap(), &events);
    }

    #[test]
    fn nobody_else_finds_it() {
        let own = identity();
        let asked = request("hello");
        let keys = [
            key(own, &asked),
            key(Identity { provider: "q", ..own }, &asked),
            key(Identity { model: "n", ..own }, &asked),
            key(Identity { key: 1, ..own }, &asked),
            key(Identity { key_version: 2, ..own }, &asked),
            key(own, &request("hello ")),
            key(own, &AIRequest { max_tokens: Some(1), ..request("hello") }),
            key(own, &AIRequest { system_prompt: Some(String::new()), ..request("hello") }),
            // Parts that run into each other would be the same.
            key(Identity { provider: "p\",\"model\":\"m", ..own }, &asked),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
        assert_eq!(keys[0], key(own, &AIRequest { stream: Some(true), ..request("hello") }));
        assert_eq!(keys[0], key(own, &AIRequest { model: "else".into(), ..request("hello") }));
    }

    #[test]
    fn only_deterministic_requests_without_tools_have_a_question() {
        assert!(Question::of(&request("a")).is_some());
        for temperature in [None, Some(0.1), Some(f64::NAN)] {
            assert!(Question::of(&AIRequest { temperature, ..request("a") }).is_none());
        }
        let tool = Tool { name: "t".into(), description: None, parameters: None };
        let tools = |tools| AIRequest { tools: Some(tools), ..request("a") };
        assert!(Question::of(&tools(vec![tool])).is_none());
        assert!(Question::of(&tools(vec![])).is_some());
    }

    #[test]
    fn half_answers_and_those_that_were_withheld_are_not_kept() {
        let cache = ResponseCache::new(CacheSettings::default());
        let key = key(identity(), &request("hello"));
        for events in [
            vec![],
            vec![text("a")],
            vec![text("a"), end(FinishReason::ContentFilter)],
            vec![end(FinishReason::Error)],
            vec![end(FinishReason::Cancelled)],
        ] {
            store(&cache, key.clone(), &events);
            assert!(cache.find(&key, NOW).is_none(), "{events:?}");
        }
    }

    #[test]
    fn an_old_answer_is_gone() {
        let settings = CacheSettings { ttl: Duration::from_secs(60), ..CacheSettings::default() };
        let cache = ResponseCache::new(settings);
        let key = key(identity(), &request("hello"));
        store(&cache, key.clone(), &[end(FinishReason::Stop)]);
        assert!(cache.find(&key, NOW + Duration::from_secs(59)).is_some());
        assert!(cache.find(&key, NOW + Duration::from_secs(60)).is_none());
        assert!(cache.find(&key, NOW).is_none(), "it does not come back");
    }

    #[test]
    fn size_is_bounded_and_so_is_one_answers_share() {
        let cache =
            ResponseCache::new(CacheSettings { size_max: 64 << 10, ..CacheSettings::default() });
        let large = key(identity(), &request("large"));
        store(&cache, large.clone(), &[text(&"x".repeat(9 << 10)), end(FinishReason::Stop)]);
        assert!(cache.find(&large, NOW).is_none());
        for index in 0..100 {
            let key = key(identity(), &request(&index.to_string()));
            store(&cache, key, &[text(&"x".repeat(4 << 10)), end(FinishReason::Stop)]);
        }
        let (count, size) = cache.settled();
        assert!(count >= 10 && size <= 64 << 10, "{count} answers, {size} bytes");
    }
}
