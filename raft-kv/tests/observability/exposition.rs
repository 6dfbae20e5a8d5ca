//! A strict reader of the OpenMetrics text format: whatever is not as it should be is a panic.

use std::collections::BTreeMap;

/// One scrape: the kind of each family, and each sample by name and labels.
#[derive(Debug)]
pub(crate) struct Scrape {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Reads a whole text.
    pub(crate) fn parse(text: &str) -> Self {
        let text = text
            .strip_suffix("# EOF\n")
            .expect("the text ends with EOF");
        let mut scrape = Self {
            kinds: BTreeMap::new(),
            samples: BTreeMap::new(),
        };
        let mut helped = None;
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help has a text");
                assert!(help.ends_with('.') && help.len() > 3, "{line}");
                helped = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type has a kind");
                assert_eq!(
                    helped.take().as_deref(),
                    Some(name),
                    "help comes first: {line}"
                );
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                let before = scrape.kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "a family comes once: {line}");
                name.clone_into(&mut family);
            } else {
                assert!(helped.is_none(), "a help without a type: {line}");
                scrape.sample(&family, line);
            }
        }
        scrape.check_histograms();
        scrape
    }

    fn sample(&mut self, family: &str, line: &str) {
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let value: f64 = value
            .parse()
            .unwrap_or_else(|_| panic!("no number: {line}"));
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels end")),
            None => (series, ""),
        };
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(!name.is_empty() && name.chars().all(is_name), "{line}");
        let suffix = name
            .strip_prefix(family)
            .expect("samples follow their family");
        let kind = self.kinds[family].as_str();
        let allowed: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_sum", "_count", "_bucket"],
            other => panic!("{other}"),
        };
        assert!(allowed.contains(&suffix), "{line}");
        assert!(kind != "counter" || value >= 0.0, "{line}");
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').expect("a label has a value");
            assert!(key.chars().all(is_name), "{line}");
            assert!(
                value.starts_with('"') && value.ends_with('"') && value.len() >= 2,
                "{line}"
            );
        }
        let before = self.samples.insert(series.to_owned(), value);
        assert_eq!(before, None, "a series comes once: {line}");
    }

    /// Buckets are cumulative, in the order of their bounds, and end with the count of all.
    fn check_histograms(&self) {
        let histograms = self.kinds.iter().filter(|(_, kind)| *kind == "histogram");
        for (name, _) in histograms {
            let mut buckets = self.buckets(name);
            buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            assert!(
                buckets.is_sorted_by(|(_, a), (_, b)| a <= b),
                "{name}: {buckets:?}"
            );
            let count = self.value(&format!("{name}_count"));
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{name}");
            let sum = self.value(&format!("{name}_sum"));
            assert!(sum >= 0.0 && (count > 0.0 || sum == 0.0), "{name}");
        }
    }

    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let prefix = format!("{name}_bucket{{le=\"");
        let found = self.samples.iter().filter_map(|(series, value)| {
            let bound = series.strip_prefix(&prefix)?.strip_suffix("\"}")?;
            let bound = match bound {
                "+Inf" => f64::INFINITY,
                number => number.parse().expect("a bound is a number"),
            };
            Some((bound, *value))
        });
        found.collect()
    }

    /// The value of a series, with its labels.
    pub(crate) fn value(&self, series: &str) -> f64 {
        let value = self.samples.get(series);
        *value.unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples.keys()))
    }

    /// The names of all families, with what counters are called.
    pub(crate) fn names(&self) -> Vec<String> {
        let kinds = self.kinds.iter();
        let name = |(name, kind): (&String, &String)| match kind.as_str() {
            "counter" => format!("{name}_total"),
            _ => name.clone(),
        };
        kinds.map(name).collect()
    }

    /// Asserts that nothing that counts has gone back since an earlier scrape of the same process.
    pub(crate) fn follows(&self, earlier: &Self) {
        let counts = |series: &str| {
            let name = series.split('{').next().unwrap_or(series);
            ["_total", "_count", "_bucket", "_sum"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        for (series, before) in earlier.samples.iter().filter(|(series, _)| counts(series)) {
            let now = self.value(series);
            assert!(now >= *before, "{series} went from {before} to {now}");
        }
    }
}
