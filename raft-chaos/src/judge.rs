//! Whether what clients were told can be explained: linearizability of every key, and every
//! append counted as often as it must.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_sim::Time;
use raft_sim::checker::linearizability::{Bound, Operation, Verdict, check};

use crate::history::{Action, Fate, Question, Record, Registers, Seen, Told};
use crate::load::TOKEN_END;
use crate::problem::Problem;

/// Time of the search for an order, for each key.
const SEARCH_MAX: Duration = Duration::from_secs(30);
/// Calls that a report of a key without an order shows.
const CALLS_SHOWN: usize = 20;

/// Characters of a value's end that it shows.
const VALUE_SHOWN: usize = 40;

/// What the histories of all keys show.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    pub(crate) keys: usize,
    /// Keys whose search was given up.
    pub(crate) undecided: Vec<String>,
    pub(crate) problems: Vec<Problem>,
}

/// Judges every key by itself.
pub(crate) fn linearizable(records: &[Record]) -> Verdicts {
    let mut by_key: BTreeMap<Arc<str>, Vec<Operation<Question, Told>>> = BTreeMap::new();
    for record in records {
        let key = Arc::clone(&record.question.key);
        by_key.entry(key).or_default().extend(operation(record));
    }
    let mut verdicts = Verdicts {
        keys: by_key.len(),
        ..Verdicts::default()
    };
    for (key, history) in by_key {
        let search = Instant::now();
        let bound = Bound::Time {
            limit: SEARCH_MAX,
            elapsed: &|| search.elapsed(),
        };
        match check(&Registers, &history, bound) {
            Verdict::Linearizable => {}
            Verdict::Undecided { .. } => verdicts.undecided.push(key.to_string()),
            Verdict::NotLinearizable { longest, .. } => {
                verdicts.problems.push(Problem::NotLinearizable {
                    key: key.to_string(),
                    calls: left_out(&history, &longest),
                });
            }
        }
    }
    verdicts
}

/// A call for the checker; none if it certainly had no effect and says nothing.
fn operation(record: &Record) -> Option<Operation<Question, Told>> {
    let is_read = record.question.action == Action::Get;
    let answered = match &record.fate {
        Fate::Answered(told) => Some((Time(record.ended_ns), told.clone())),
        Fate::Unknown(_) if !is_read => None,
        // Whoever sees what a refused write would have written sees what nobody wrote.
        Fate::Refused(_) | Fate::Unknown(_) => return None,
    };
    Some(Operation {
        client: record.client,
        input: record.question.clone(),
        called: Time(record.called_ns),
        answered,
    })
}

fn left_out(history: &[Operation<Question, Told>], longest: &[usize]) -> String {
    let mut rest: Vec<_> = (0..history.len())
        .filter(|at| !longest.contains(at))
        .collect();
    rest.sort_unstable_by_key(|at| history[*at].called);
    let show = |at: &usize| {
        let Operation {
            client,
            input,
            called,
            answered,
        } = &history[*at];
        let answer = match answered {
            Some((at, told)) => format!("{} ms: {}", at.0 / 1_000_000, brief(told)),
            None => "never: unknown".to_owned(),
        };
        let called = called.0 / 1_000_000;
        format!(
            "  client {client}, {called} ms to {answer} for {:?}",
            input.action
        )
    };
    let lines: Vec<_> = rest.iter().take(CALLS_SHOWN).map(show).collect();
    lines.join("\n")
}

/// An answer in one line: values grow with every append, and the end is what differs.
fn brief(told: &Told) -> String {
    let seen = match &told.seen {
        Seen::Value(Some(pair)) => {
            let skipped = pair.value.chars().count().saturating_sub(VALUE_SHOWN);
            let end: String = pair.value.chars().skip(skipped).collect();
            format!("…{end:?} of revision {}", pair.modified)
        }
        Seen::Value(None) | Seen::Written | Seen::Different | Seen::Deleted(_) => {
            format!("{:?}", told.seen)
        }
    };
    format!("at revision {} {seen}", told.revision)
}

/// The keys that are only appended to, so that a final look shows each append.
pub(crate) fn token_keys(records: &[Record]) -> Vec<Arc<str>> {
    let mut appended: BTreeMap<&Arc<str>, bool> = BTreeMap::new();
    for Record { question, .. } in records {
        let is_only = appended.entry(&question.key).or_insert(true);
        *is_only &= match &question.action {
            Action::Get => true,
            Action::Append(token) => token.ends_with(TOKEN_END),
            Action::Put(_) | Action::Swap { .. } | Action::Delete => false,
        };
    }
    let only = appended.into_iter().filter(|(_, is_only)| *is_only);
    only.map(|(key, _)| Arc::clone(key)).collect()
}

/// Whether each append to a key is in its final value as often as its client was told. It changes
/// nothing in other keys: the final value is that of one key.
pub(crate) fn counted_once(records: &[Record], key: &str, value: &str) -> Vec<Problem> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for token in value.split_inclusive(TOKEN_END) {
        *counts.entry(token).or_default() += 1;
    }
    let mut problems = Vec::new();
    for record in records.iter().filter(|record| &*record.question.key == key) {
        let Action::Append(token) = &record.question.action else {
            continue;
        };
        let count = counts.remove(token.as_str()).unwrap_or(0);
        let (fate, is_right) = match record.fate {
            Fate::Answered(_) => ("acknowledged", count == 1),
            Fate::Refused(_) => ("refused", count == 0),
            Fate::Unknown(_) => ("of unknown outcome", count <= 1),
        };
        if !is_right {
            problems.push(Problem::Miscounted {
                token: token.clone(),
                key: key.to_owned(),
                fate,
                count,
            });
        }
    }
    let invented = counts.into_keys().map(|token| Problem::Invented {
        key: key.to_owned(),
        token: token.to_owned(),
    });
    problems.extend(invented);
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(token: &str, fate: Fate) -> Record {
        Record {
            client: 1,
            question: Question {
                key: "tokens/0/0".into(),
                action: Action::Append(token.to_owned()),
            },
            called_ns: 0,
            ended_ns: 1,
            fate,
        }
    }

    fn written(revision: u64) -> Fate {
        let seen = Seen::Written;
        Fate::Answered(Told { revision, seen })
    }

    fn history() -> Vec<Record> {
        vec![
            append("1;", written(2)),
            append("2;", Fate::Unknown(String::new())),
            append("3;", Fate::Refused(String::new())),
        ]
    }

    fn problems(value: &str) -> usize {
        counted_once(&history(), "tokens/0/0", value).len()
    }

    #[test]
    fn every_append_counts_as_its_client_was_told() {
        assert_eq!(problems("1;"), 0);
        assert_eq!(problems("2;1;"), 0);
        assert_eq!(problems(""), 1, "an acknowledged one is lost");
        assert_eq!(problems("1;1;"), 1, "an acknowledged one counts twice");
        assert_eq!(problems("1;2;2;"), 1, "an unknown one counts twice");
        assert_eq!(problems("1;3;"), 1, "a refused one counts");
        assert_eq!(problems("1;9;"), 1, "nobody appended it");
        assert_eq!(token_keys(&history()), ["tokens/0/0".into()]);
    }

    #[test]
    fn a_key_without_an_order_is_reported_with_its_calls() {
        let mut records = history();
        let mut stale = append("", Fate::Refused(String::new()));
        stale.question.action = Action::Get;
        stale.fate = Fate::Answered(Told {
            revision: 3,
            seen: Seen::Value(None),
        });
        stale.called_ns = 5;
        stale.ended_ns = 6;
        assert!(linearizable(&records).problems.is_empty());
        records.push(stale);
        let verdicts = linearizable(&records);
        assert_eq!(verdicts.keys, 1);
        let text = verdicts.problems[0].to_string();
        assert!(
            text.contains("tokens/0/0") && text.contains("Get"),
            "{text}"
        );
    }

    #[test]
    fn what_a_refused_write_would_have_written_must_not_be_seen() {
        let mut records = history();
        let mut seen = append("", Fate::Refused(String::new()));
        seen.question.action = Action::Get;
        seen.fate = Fate::Answered(Told {
            revision: 9,
            seen: Seen::Value(Some(crate::history::Pair {
                value: "1;3;".to_owned(),
                modified: 4,
            })),
        });
        (seen.called_ns, seen.ended_ns) = (5, 6);
        records.push(seen);
        assert_eq!(linearizable(&records).problems.len(), 1);
    }
}
