//! Contestants that do the same work, measured in turn round after round, and compared within each
//! round: the disk and the neighbours of a virtual machine change from minute to minute, so figures
//! that were not taken next to each other cannot be divided.

use std::time::{Duration, Instant};

use crate::processor;

/// What a contest is told on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds; each measures every contestant once.
    pub rounds: usize,
    /// How long one measurement takes.
    pub slice: Duration,
    /// Only shapes whose title contains one of these are measured; all if there is none.
    pub filters: Vec<String>,
}

impl Options {
    /// Reads `--rounds N`, `--seconds S` and filters. What cargo adds (`--bench`) is left out.
    ///
    /// # Panics
    /// If a number is missing: the message says which.
    #[must_use]
    pub fn from_arguments() -> Self {
        let mut options = Self {
            rounds: 5,
            slice: Duration::from_secs(2),
            filters: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().and_then(|value| value.parse::<f64>().ok());
                value.unwrap_or_else(|| panic!("{argument} needs a number"))
            };
            match argument.as_str() {
                "--rounds" => options.rounds = (number() as usize).max(1),
                "--seconds" => options.slice = Duration::from_secs_f64(number()),
                "--bench" => {}
                filter => options.filters.push(filter.to_string()),
            }
        }
        options
    }

    /// Whether this shape is to be measured.
    #[must_use]
    pub fn wants(&self, title: &str) -> bool {
        let mut filters = self.filters.iter();
        self.filters.is_empty() || filters.any(|filter| title.contains(filter.as_str()))
    }
}

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Operations done.
    pub operations: u64,
    /// Time it took.
    pub elapsed: Duration,
    /// Processor time it took, of all threads that take part.
    pub processor: Duration,
    /// The median time of one repetition, if the work was repeated on one thread. Neighbours that
    /// take the processor or the disk away for a moment do not move it.
    pub repetition: Option<Duration>,
}

impl Measured {
    /// Repeats work on the calling thread, which returns how many operations it did, until the
    /// slice is over.
    pub fn repeat(slice: Duration, mut work: impl FnMut() -> u64) -> Self {
        let (begin, processor) = (Instant::now(), processor::of_thread());
        let mut operations = 0;
        let (mut now, mut times) = (Duration::ZERO, Vec::new());
        while now < slice {
            operations += work();
            let after = begin.elapsed();
            times.push(after - now);
            now = after;
        }
        times.sort_unstable();
        Self {
            operations,
            elapsed: now,
            processor: processor::of_thread() - processor,
            repetition: times.get(times.len() / 2).copied(),
        }
    }

    /// Runs work of several threads to its end; it returns how many operations it did.
    pub fn once(work: impl FnOnce() -> u64) -> Self {
        let (begin, processor) = (Instant::now(), processor::of_process());
        let operations = work();
        Self {
            operations,
            elapsed: begin.elapsed(),
            processor: processor::of_process() - processor,
            repetition: None,
        }
    }

    fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    fn repetition_us(&self) -> Option<f64> {
        Some(self.repetition?.as_secs_f64() * 1e6)
    }

    fn processor_us(&self) -> f64 {
        self.processor.as_secs_f64() * 1e6 / self.operations as f64
    }
}

type Work<'a> = Box<dyn FnMut(Duration) -> Measured + 'a>;

/// One shape of work and those who do it. The first contestant is ours.
pub struct Contest<'a> {
    title: String,
    contestants: Vec<(String, Work<'a>)>,
}

impl<'a> Contest<'a> {
    /// A contest without contestants.
    #[must_use]
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_string(),
            contestants: Vec::new(),
        }
    }

    /// Adds a contestant: something that works for about as long as it is told.
    #[must_use]
    pub fn with(mut self, name: &str, work: impl FnMut(Duration) -> Measured + 'a) -> Self {
        self.contestants.push((name.to_string(), Box::new(work)));
        self
    }

    /// Measures, and prints a line for each contestant: the median rate, its spread, the time of a
    /// repetition, processor time per operation, and the medians over the rounds of our rate divided
    /// by theirs and of their processor time divided by ours.
    ///
    /// # Panics
    /// If there is no contestant.
    pub fn run(mut self, options: &Options) {
        let mut found: Vec<Vec<Measured>> = vec![Vec::new(); self.contestants.len()];
        for round in 0..=options.rounds {
            for (at, (_, work)) in self.contestants.iter_mut().enumerate() {
                // The first round warms caches and files up, and is not counted.
                let slice = if round == 0 {
                    options.slice / 4
                } else {
                    options.slice
                };
                let measured = work(slice);
                if round > 0 {
                    found[at].push(measured);
                }
            }
        }
        let ours: Vec<f64> = found[0].iter().map(Measured::rate).collect();
        for ((name, _), measured) in self.contestants.iter().zip(&found) {
            let rates: Vec<f64> = measured.iter().map(Measured::rate).collect();
            let ratios: Vec<f64> = ours.iter().zip(&rates).map(|(a, b)| a / b).collect();
            let processor: Vec<f64> = measured.iter().map(Measured::processor_us).collect();
            let of_processor = found[0].iter().zip(&processor);
            let of_processor: Vec<f64> = of_processor
                .map(|(ours, theirs)| theirs / ours.processor_us())
                .collect();
            let repetitions: Option<Vec<f64>> =
                measured.iter().map(Measured::repetition_us).collect();
            println!(
                "| {} | {name} | {} | {} to {} | {} | {:.2} | {:.2} | {:.2} |",
                self.title,
                shown(median(&rates)),
                shown(rates.iter().copied().fold(f64::INFINITY, f64::min)),
                shown(rates.iter().copied().fold(0.0, f64::max)),
                repetitions.map_or_else(String::new, |us| format!("{:.1}", median(&us))),
                median(&processor),
                median(&ratios),
                median(&of_processor),
            );
        }
    }
}

/// Prints the head of the table that [`Contest::run`] prints lines of.
pub fn print_head(group: &str, unit: &str) {
    println!("\n## {group}\n");
    println!(
        "| shape | who | {unit}/s | lowest to highest | median repetition, µs | processor µs per {unit} | ours / it: rate | processor |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
}

/// A rate with four digits or so.
fn shown(rate: f64) -> String {
    if rate < 100.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}

/// The middle value; the mean of the two middle ones of an even number.
///
/// # Panics
/// If there is no value.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a median needs a value");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn contestants_take_turns_and_all_rounds_count() {
        let order = std::cell::RefCell::new(Vec::new());
        let work = |name: &'static str| {
            let order = &order;
            move |slice| {
                order.borrow_mut().push((name, slice));
                Measured {
                    operations: 1,
                    elapsed: Duration::from_secs(1),
                    processor: Duration::ZERO,
                    repetition: None,
                }
            }
        };
        let options = Options {
            rounds: 2,
            slice: Duration::from_secs(4),
            filters: Vec::new(),
        };
        let contest = Contest::new("t").with("a", work("a")).with("b", work("b"));
        contest.run(&options);
        let names: Vec<_> = order.borrow().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["a", "b", "a", "b", "a", "b"]);
        assert_eq!(order.borrow()[0].1, Duration::from_secs(1));
        assert_eq!(order.borrow()[2].1, Duration::from_secs(4));
    }
}
