//! What the providers of AI answers are asked, one block for each, and its part of the page.
//!
//! A provider is shown by its name in the configuration, never by a key, a model or an address.

use std::fmt::{self, Write};

use super::Metrics;
use super::exposition::{Labels, Page, Seconds};
use super::histogram::{Histogram, starts_bucket};
use super::instrument::{Counter, Gauge};
use super::labels::{EndpointState, ProviderOutcome};
use super::series::{ProviderUse, Series, SeriesKind};

/// The `le` edges of the time to the first output, in ns: powers of two from 16 ms to 137 s.
const EDGES_NS: [u64; 14] = {
    let mut edges = [0; 14];
    let mut index = 0;
    while index < edges.len() {
        edges[index] = 1 << (24 + index);
        assert!(starts_bucket(edges[index]), "an edge must start a bucket");
        index += 1;
    }
    edges
};

/// What one provider is asked. **The http shard is the only writer.** About 5 KiB.
#[derive(Debug)]
pub struct ProviderMetrics {
    name: String,
    /// The plain counts.
    pub usage: ProviderUse,
    /// From sending a request to the first output of its answer.
    pub first_output: Histogram,
    outcomes: [Counter; ProviderOutcome::COUNT],
    transitions: [Counter; EndpointState::COUNT],
    endpoints: [Gauge; EndpointState::COUNT],
}

impl ProviderMetrics {
    /// All at zero, for the provider of this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            usage: ProviderUse::default(),
            first_output: Histogram::default(),
            outcomes: Default::default(),
            transitions: Default::default(),
            endpoints: Default::default(),
        }
    }

    /// How many requests to it ended like this.
    pub fn outcome(&self, outcome: ProviderOutcome) -> &Counter {
        &self.outcomes[outcome as usize]
    }

    /// How often the circuit breaker of an endpoint entered this state.
    pub fn transitions(&self, to: EndpointState) -> &Counter {
        &self.transitions[to as usize]
    }

    /// How many of its endpoints are in this state.
    pub fn endpoints(&self, state: EndpointState) -> &Gauge {
        &self.endpoints[state as usize]
    }
}

impl Metrics {
    pub(super) fn write_providers(&self, page: &mut Page<impl Write>) -> fmt::Result {
        let providers = self.providers.get().map_or(&[][..], |providers| providers);
        if providers.is_empty() {
            return Ok(());
        }
        for Series { name, help, kind, value } in ProviderUse::SERIES {
            page.family(name, help, *kind)?;
            for provider in providers {
                page.sample(name, &[("provider", &provider.name)], value(&provider.usage))?;
            }
        }

        let name = "annulus_provider_requests_total";
        page.family(name, "Requests to providers that ended.", SeriesKind::Counter)?;
        for provider in providers {
            for &outcome in ProviderOutcome::ALL {
                let labels: Labels = &[("provider", &provider.name), ("outcome", &outcome.label())];
                page.sample(name, labels, provider.outcome(outcome).value())?;
            }
        }

        let name = "annulus_provider_breaker_transitions_total";
        page.family(name, "Changes of a circuit breaker to this state.", SeriesKind::Counter)?;
        for provider in providers {
            for &state in EndpointState::ALL {
                let labels: Labels = &[("provider", &provider.name), ("state", &state.label())];
                page.sample(name, labels, provider.transitions(state).value())?;
            }
        }

        let name = "annulus_provider_endpoints";
        page.family(name, "Endpoints by their circuit breaker's state.", SeriesKind::Gauge)?;
        for provider in providers {
            for &state in EndpointState::ALL {
                let labels: Labels = &[("provider", &provider.name), ("state", &state.label())];
                page.sample(name, labels, provider.endpoints(state).value())?;
            }
        }

        let name = "annulus_provider_first_output_seconds";
        let help = "From sending a request to the first output of its answer.";
        page.family(name, help, SeriesKind::Histogram)?;
        for provider in providers {
            let times = provider.first_output.snapshot();
            let bucket = "annulus_provider_first_output_seconds_bucket";
            let provider = &provider.name;
            for (edge_ns, below) in times.counts_below(&EDGES_NS) {
                page.sample(bucket, &[("provider", provider), ("le", &Seconds(edge_ns))], below)?;
            }
            page.sample(bucket, &[("provider", provider), ("le", &"+Inf")], times.count())?;
            let sum = "annulus_provider_first_output_seconds_sum";
            page.sample(sum, &[("provider", provider)], Seconds(times.sum_ns()))?;
            let count = "annulus_provider_first_output_seconds_count";
            page.sample(count, &[("provider", provider)], times.count())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::super::exposition::tests::check;
    use super::super::{BuildInfo, MetricsOptions};
    use super::*;

    #[test]
    fn providers_are_on_the_page_by_name_and_a_page_without_any_has_none() {
        let metrics = Metrics::new(MetricsOptions {
            shard_count: 1,
            fault_names: &[],
            started: SystemTime::UNIX_EPOCH,
            build: BuildInfo { version: "", revision: "" },
        });
        assert!(!metrics.export_prometheus().contains("annulus_provider"));

        let provider = Arc::new(ProviderMetrics::new("my \"own\""));
        metrics.show_providers([Arc::clone(&provider), Arc::new(ProviderMetrics::new("b"))]);
        provider.outcome(ProviderOutcome::Overloaded).increment();
        provider.usage.provider_input_tokens_total.add(7);
        provider.endpoints(EndpointState::HalfOpen).set(2);
        provider.transitions(EndpointState::Open).increment();
        provider.first_output.record(1 << 25);
        let samples = check(&metrics.export_prometheus()).unwrap();
        let own = r#"provider="my \"own\"""#;
        for (series, value) in [
            (format!("annulus_provider_requests_total{{{own},outcome=\"overloaded\"}}"), 1.0),
            (format!("annulus_provider_requests_total{{{own},outcome=\"success\"}}"), 0.0),
            (format!("annulus_provider_input_tokens_total{{{own}}}"), 7.0),
            ("annulus_provider_input_tokens_total{provider=\"b\"}".into(), 0.0),
            (format!("annulus_provider_endpoints{{{own},state=\"half_open\"}}"), 2.0),
            (format!("annulus_provider_breaker_transitions_total{{{own},state=\"open\"}}"), 1.0),
            (format!("annulus_provider_first_output_seconds_count{{{own}}}"), 1.0),
        ] {
            assert_eq!(samples.get(&series), Some(&value), "{series}");
        }
    }
}
