//! What a person wants to know of a history that is not linearizable.

use std::fmt::{Debug, Write};

use super::{Model, Operation};

/// Operations shown of those that fit, the latest ones, and of those that do not, the earliest.
const SHOWN: usize = 12;

/// The positions of a part's operations.
pub(super) fn members<M: Model>(
    model: &M,
    history: &[Operation<M::Input, M::Output>],
    part: &M::Part,
) -> Vec<usize> {
    let is_member = |at: &usize| model.part(&history[*at].input) == *part;
    (0..history.len()).filter(is_member).collect()
}

/// The longest order that was found, and what is left.
pub(super) fn of_violation<M>(
    model: &M,
    history: &[Operation<M::Input, M::Output>],
    part: &M::Part,
    longest: &[usize],
) -> String
where
    M: Model<Input: Debug, Output: Debug>,
{
    let mut left = members(model, history, part);
    left.retain(|at| !longest.contains(at));
    left.sort_by_key(|at| history[*at].called);
    let (fit, rest) = (longest.len(), left.len());
    let mut story = format!(
        "not linearizable: part {part:?}: {fit} operations fit into an order, {rest} do not"
    );
    let latest = &longest[fit.saturating_sub(SHOWN)..];
    let earliest = &left[..rest.min(SHOWN)];
    for (mark, shown) in [("fits", latest), ("left", earliest)] {
        for at in shown {
            // Writing to a string does not fail.
            let _ = write!(story, "\n  {at:>5} {mark} {:?}", history[*at]);
        }
    }
    story
}
