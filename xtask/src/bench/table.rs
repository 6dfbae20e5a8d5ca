//! Medians over rounds, printed as Markdown tables.

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) ops_per_s: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// Processor time of all servers per operation.
    pub(super) server_cpu_us: f64,
}

/// Prints a line per number of clients: medians over the rounds, and the spread of the rate.
pub(super) fn print(kind: &str, clients: &[(u64, u64)], measured: &[Vec<Row>]) {
    println!();
    println!(
        "| {kind}: clients | connections | operations/s | lowest to highest | p50 µs | p99 µs | server CPU µs per operation |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for ((clients, connections), rows) in clients.iter().zip(measured) {
        let of = |figure: fn(&Row) -> f64| rows.iter().map(figure).collect::<Vec<_>>();
        let rates = of(|row| row.ops_per_s);
        let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = rates.iter().copied().fold(0.0, f64::max);
        println!(
            "| {clients} | {connections} | {:.0} | {lowest:.0} to {highest:.0} | {:.0} | {:.0} | {:.1} |",
            median(&rates),
            median(&of(|row| row.p50_us)),
            median(&of(|row| row.p99_us)),
            median(&of(|row| row.server_cpu_us)),
        );
    }
}

/// The middle value; the mean of the two middle ones of an even number; 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(value), 1) => *value,
        (Some(value), _) => f64::midpoint(sorted[middle - 1], *value),
    }
}

/// The median over the rounds of one figure.
pub(super) fn median_of(rows: &[Row], figure: fn(&Row) -> f64) -> f64 {
    median(&rows.iter().map(figure).collect::<Vec<_>>())
}

/// The median over the rounds of one figure of these divided by the same of those.
pub(super) fn ratio(these: &[Row], those: &[Row], figure: fn(&Row) -> f64) -> f64 {
    let ratios = these.iter().zip(those).map(|(a, b)| figure(a) / figure(b));
    median(&ratios.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
