//! What the metrics page says of the providers on the network.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Page;

/// A provider's state, as the daemon's breakers and counters have it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ProviderState {
    name: String,
    /// Not all of its endpoints are left alone by their circuit breakers.
    ready: bool,
    /// Its endpoints by the state of their circuit breakers: `closed`, `open`, `half_open`.
    endpoints: BTreeMap<String, u64>,
    requests_in_flight: u64,
    /// Requests that ended, by how they did; the others did not occur.
    requests_total: BTreeMap<String, u64>,
}

impl ProviderState {
    /// All of them, by name.
    pub(super) fn all(page: &Page<'_>) -> Vec<Self> {
        let mut states: BTreeMap<String, Self> = BTreeMap::new();
        for (labels, value) in page.samples("annulus_provider_in_flight") {
            state(&mut states, labels).requests_in_flight = value;
        }
        for (labels, value) in page.samples("annulus_provider_endpoints") {
            let breaker = label(labels, "state");
            let state = state(&mut states, labels);
            state.ready |= breaker != "open" && value > 0;
            state.endpoints.insert(breaker, value);
        }
        let ended = page.samples("annulus_provider_requests_total");
        for (labels, value) in ended.filter(|(_, value)| *value > 0) {
            let outcome = label(labels, "outcome");
            state(&mut states, labels).requests_total.insert(outcome, value);
        }
        let named = |(name, state)| Self { name, ..state };
        states.into_iter().map(named).collect()
    }

    /// On one line.
    pub(super) fn row(&self) -> (String, String) {
        let list = |counts: &BTreeMap<String, u64>| {
            let counts = counts.iter().filter(|(_, count)| **count > 0);
            let counts = counts.map(|(name, count)| format!("{count} {}", name.replace('_', " ")));
            counts.collect::<Vec<_>>().join(", ")
        };
        let ready = if self.ready { "ready" } else { "left alone for a while" };
        let mut text = format!("{ready}; breakers: {}", list(&self.endpoints));
        if self.requests_in_flight > 0 {
            text.push_str(&format!("; {} in flight", self.requests_in_flight));
        }
        if !self.requests_total.is_empty() {
            text.push_str(&format!("; ended: {}", list(&self.requests_total)));
        }
        (format!("provider {}", self.name), text)
    }

    pub(super) const fn is_ready(&self) -> bool {
        self.ready
    }
}

fn state<'s>(
    states: &'s mut BTreeMap<String, ProviderState>,
    labels: &str,
) -> &'s mut ProviderState {
    states.entry(label(labels, "provider")).or_default()
}

/// The value of a label in `{a="x",b="y"}`; empty when there is none.
fn label(labels: &str, name: &str) -> String {
    let start = labels.find(&format!("{name}=\"")).map(|at| at + name.len() + 2);
    let mut value = String::new();
    let mut rest = start.map_or("", |start| &labels[start..]).chars();
    while let Some(character) = rest.next() {
        match character {
            '"' => break,
            '\\' => value.extend(rest.next()),
            other => value.push(other),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page<'_> = Page(
        "annulus_provider_in_flight{provider=\"a\"} 2\n\
         annulus_provider_in_flight{provider=\"my \\\"own\\\"\"} 0\n\
         annulus_provider_requests_total{provider=\"a\",outcome=\"success\"} 3\n\
         annulus_provider_requests_total{provider=\"a\",outcome=\"rate_limited\"} 1\n\
         annulus_provider_requests_total{provider=\"a\",outcome=\"server\"} 0\n\
         annulus_provider_endpoints{provider=\"a\",state=\"closed\"} 1\n\
         annulus_provider_endpoints{provider=\"a\",state=\"open\"} 1\n\
         annulus_provider_endpoints{provider=\"my \\\"own\\\"\",state=\"closed\"} 0\n\
         annulus_provider_endpoints{provider=\"my \\\"own\\\"\",state=\"open\"} 1\n",
    );

    #[test]
    fn a_provider_is_ready_unless_all_of_its_endpoints_are_left_alone() {
        let states = ProviderState::all(&PAGE);
        let names: Vec<_> = states.iter().map(|it| (it.name.as_str(), it.ready)).collect();
        assert_eq!(names, [("a", true), ("my \"own\"", false)]);
        let (name, text) = states[0].row();
        assert_eq!(name, "provider a");
        assert_eq!(
            text,
            "ready; breakers: 1 closed, 1 open; 2 in flight; ended: 1 rate limited, 3 success"
        );
        assert_eq!(states[1].row().1, "left alone for a while; breakers: 1 open");
    }
}
