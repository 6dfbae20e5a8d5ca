//! What the demonstration prints: the members as they are, and the closing table.

use super::tool::NodeState;

/// Rows of the closing table, in the order of events.
#[derive(Default)]
pub(crate) struct Report(Vec<(String, String)>);

impl Report {
    pub(crate) fn add(&mut self, what: &str, result: impl Into<String>) {
        self.0.push((what.to_string(), result.into()));
    }

    pub(crate) fn print(&self) {
        let width = self
            .0
            .iter()
            .map(|(what, _)| what.chars().count())
            .max()
            .unwrap_or(0);
        println!("\nwhat happened");
        for (what, result) in &self.0 {
            println!("  {what:<width$}  {result}");
        }
        println!("\nnothing was lost");
    }
}

/// Prints every member with its role.
pub(crate) fn print_members(states: &[NodeState]) {
    println!(
        "    {:<22}{:<5}{:<11}{:>5}{:>8}{:>10}{:>10}{:>10}  hash",
        "endpoint", "id", "role", "term", "leader", "applied", "last", "revision"
    );
    for state in states {
        match &state.known {
            Some(known) => println!(
                "    {:<22}{:<5}{:<11}{:>5}{:>8}{:>10}{:>10}{:>10}  {}",
                state.endpoint,
                format!("n{}", known.id),
                known.role,
                known.term,
                known
                    .leader
                    .map_or("?".to_string(), |leader| format!("n{leader}")),
                known.applied_index,
                known.last_index,
                known.revision,
                known.hash
            ),
            None => println!("    {:<22}{}", state.endpoint, state.error),
        }
    }
}

/// The state hashes of the nodes, once if they are one.
pub(crate) fn hashes(states: &[NodeState]) -> String {
    let known = states.iter().filter_map(|state| state.known.as_ref());
    let mut hashes: Vec<_> = known.map(|known| known.hash.as_str()).collect();
    hashes.dedup();
    hashes.join(", ")
}
