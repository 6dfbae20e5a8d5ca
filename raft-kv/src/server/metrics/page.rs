//! The text that a scraper reads: families of samples in the OpenMetrics format, which Prometheus
//! reads as its own.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use raft_node::Histogram;

/// Names and values of a sample's labels.
pub(super) type Labels = Vec<(&'static str, String)>;

/// What one step of a histogram's values is in the unit that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Values are nanoseconds, shown as seconds.
    Nanoseconds,
    /// Values are shown as they are.
    Plain,
}

#[derive(Clone, Debug)]
enum Value {
    Counter(u64),
    Gauge(i64),
    Fraction(f64),
    Histogram(Histogram, Unit),
}

impl Value {
    fn metric_type(&self) -> MetricType {
        match self {
            Self::Counter(_) => MetricType::Counter,
            Self::Gauge(_) | Self::Fraction(_) => MetricType::Gauge,
            Self::Histogram(..) => MetricType::Histogram,
        }
    }

    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(value) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
            Self::Gauge(value) => encoder.encode_gauge(value),
            Self::Fraction(value) => encoder.encode_gauge(value),
            Self::Histogram(histogram, unit) => {
                let shown = |value: u64| match unit {
                    Unit::Nanoseconds => value as f64 / 1e9,
                    Unit::Plain => value as f64,
                };
                let bound = |bound: u64| match bound {
                    u64::MAX => f64::INFINITY,
                    bound => shown(bound),
                };
                let buckets = histogram.buckets.iter();
                let buckets: Vec<_> = buckets.map(|(b, count)| (bound(*b), *count)).collect();
                let (sum, count) = (shown(histogram.sum), histogram.count());
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
            }
        }
    }
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    samples: Vec<(Labels, Value)>,
}

/// Collects families, then turns into text.
#[derive(Debug, Default)]
pub(super) struct Page {
    families: Vec<Family>,
}

impl Page {
    /// One counter. Its name ends with `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.counters(name, help, [(Labels::new(), value)]);
    }

    /// Counters told apart by labels.
    pub(super) fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        assert!(name.ends_with(TOTAL), "{name} counts, so it says so");
        let samples = samples.into_iter();
        let samples = samples.map(|(labels, value)| (labels, Value::Counter(value)));
        self.add(name, help, samples.collect());
    }

    /// One number that goes up and down.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.gauges(name, help, [(Labels::new(), value)]);
    }

    /// Numbers that go up and down, told apart by labels.
    pub(super) fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let value = |value| Value::Gauge(i64::try_from(value).unwrap_or(i64::MAX));
        let samples = samples.into_iter();
        let samples = samples.map(|(labels, found)| (labels, value(found)));
        self.add(name, help, samples.collect());
    }

    /// Fractions that go up and down, told apart by labels.
    pub(super) fn fractions(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let samples = samples.into_iter();
        let samples = samples.map(|(labels, value)| (labels, Value::Fraction(value)));
        self.add(name, help, samples.collect());
    }

    /// A histogram.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        unit: Unit,
        histogram: &Histogram,
    ) {
        let value = Value::Histogram(histogram.clone(), unit);
        self.add(name, help, vec![(Labels::new(), value)]);
    }

    /// A family without a sample says nothing, so it is left out.
    fn add(&mut self, name: &'static str, help: &'static str, samples: Vec<(Labels, Value)>) {
        if !samples.is_empty() {
            self.families.push(Family {
                name,
                help,
                samples,
            });
        }
    }

    /// The whole text.
    pub(super) fn into_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a string takes any text");
        text
    }
}

/// What the format adds to the name of a counter by itself.
const TOTAL: &str = "_total";

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.families {
            let Some((_, first)) = family.samples.first() else {
                continue;
            };
            let name = family.name.strip_suffix(TOTAL).unwrap_or(family.name);
            let kind = first.metric_type();
            let mut metric = encoder.encode_descriptor(name, family.help, None, kind)?;
            for (labels, value) in &family.samples {
                if labels.is_empty() {
                    value.encode(&mut metric)?;
                } else {
                    value.encode(&mut metric.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_written_as_the_format_wants_it() {
        let mut page = Page::default();
        page.counter("a_total", "Counts a.", 3);
        page.gauges("b", "Is b.", [(vec![("x", "q\"".to_owned())], 5)]);
        page.fractions("c_seconds", "Takes c.", [(Labels::new(), 0.5)]);
        page.gauges("d", "Is not there.", []);
        let histogram = Histogram {
            buckets: vec![(10_000, 1), (1_000_000_000, 2), (u64::MAX, 4)],
            sum: 2_500_000_000,
        };
        page.histogram("e_seconds", "Takes e.", Unit::Nanoseconds, &histogram);
        page.histogram("f", "Sizes.", Unit::Plain, &histogram);
        let expected = "\
# HELP a Counts a.
# TYPE a counter
a_total 3
# HELP b Is b.
# TYPE b gauge
b{x=\"q\\\"\"} 5
# HELP c_seconds Takes c.
# TYPE c_seconds gauge
c_seconds 0.5
# HELP e_seconds Takes e.
# TYPE e_seconds histogram
e_seconds_sum 2.5
e_seconds_count 7
e_seconds_bucket{le=\"0.00001\"} 1
e_seconds_bucket{le=\"1.0\"} 3
e_seconds_bucket{le=\"+Inf\"} 7
# HELP f Sizes.
# TYPE f histogram
f_sum 2500000000.0
f_count 7
f_bucket{le=\"10000.0\"} 1
f_bucket{le=\"1000000000.0\"} 3
f_bucket{le=\"+Inf\"} 7
# EOF
";
        assert_eq!(page.into_text(), expected);
    }
}
