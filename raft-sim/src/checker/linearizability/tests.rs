//! Histories that are and are not linearizable, and a comparison with trying every order.

use std::cell::Cell;

use super::*;
use crate::random::{Random, Stream};

/// Registers by name: `Set` writes, `Add` appends a digit, `Read` reads.
struct Registers;

#[derive(Clone, Debug)]
enum Ask {
    Set(char, u64),
    Add(char, u64),
    Read(char),
}

impl Model for Registers {
    type Part = char;
    type State = u64;
    type Input = Ask;
    type Output = u64;

    fn part(&self, input: &Ask) -> char {
        match input {
            Ask::Set(name, _) | Ask::Add(name, _) | Ask::Read(name) => *name,
        }
    }

    fn initial(&self, _part: &char) -> u64 {
        0
    }

    fn step(&self, state: &u64, input: &Ask, output: Option<&u64>) -> Option<u64> {
        match input {
            Ask::Set(_, value) => Some(*value),
            Ask::Add(_, digit) => Some(state * 10 + digit),
            Ask::Read(_) => output.is_none_or(|seen| seen == state).then_some(*state),
        }
    }
}

fn call(input: Ask, from: u64, answered: Option<(u64, u64)>) -> Operation<Ask, u64> {
    Operation {
        client: 0,
        input,
        called: Time::from_ms(from),
        answered: answered.map(|(at, output)| (Time::from_ms(at), output)),
    }
}

fn done(input: Ask, from: u64, to: u64, output: u64) -> Operation<Ask, u64> {
    call(input, from, Some((to, output)))
}

fn verdict(history: &[Operation<Ask, u64>]) -> Verdict<char> {
    check(&Registers, history, Bound::Steps(1_000_000))
}

#[test]
fn an_empty_history_and_overlapping_calls_in_any_order_are_linearizable() {
    assert_eq!(verdict(&[]), Verdict::Linearizable);
    let overlapping = [
        done(Ask::Set('x', 1), 0, 10, 0),
        done(Ask::Read('x'), 1, 3, 1),
        done(Ask::Read('x'), 4, 9, 1),
        done(Ask::Set('x', 2), 5, 12, 0),
        done(Ask::Read('x'), 11, 13, 2),
    ];
    assert_eq!(verdict(&overlapping), Verdict::Linearizable);
}

#[test]
fn a_stale_read_is_refused() {
    let history = [
        done(Ask::Set('x', 1), 0, 1, 0),
        done(Ask::Set('x', 2), 2, 3, 0),
        done(Ask::Read('x'), 4, 5, 1),
    ];
    let expected = Verdict::NotLinearizable {
        part: 'x',
        longest: vec![0, 1],
    };
    assert_eq!(verdict(&history), expected);
}

#[test]
fn reads_that_go_back_in_time_are_refused() {
    // The write overlaps both reads, but once seen it must stay.
    let history = [
        done(Ask::Set('x', 1), 0, 20, 0),
        done(Ask::Read('x'), 1, 5, 1),
        done(Ask::Read('x'), 6, 9, 0),
    ];
    assert!(matches!(verdict(&history), Verdict::NotLinearizable { .. }));
}

#[test]
fn an_append_that_counts_twice_is_refused() {
    let history = [
        done(Ask::Add('x', 7), 0, 5, 0),
        done(Ask::Read('x'), 6, 7, 77),
    ];
    assert!(matches!(verdict(&history), Verdict::NotLinearizable { .. }));
}

#[test]
fn a_lost_write_is_refused() {
    let history = [
        done(Ask::Add('x', 1), 0, 5, 0),
        done(Ask::Add('x', 2), 0, 5, 0),
        done(Ask::Read('x'), 6, 7, 1),
    ];
    assert!(matches!(verdict(&history), Verdict::NotLinearizable { .. }));
}

#[test]
fn an_unanswered_write_may_have_happened_later_or_never() {
    for (first, second, is_fine) in [(0, 0, true), (0, 1, true), (1, 1, true), (1, 0, false)] {
        let history = [
            call(Ask::Set('x', 1), 0, None),
            done(Ask::Read('x'), 5, 6, first),
            done(Ask::Read('x'), 7, 8, second),
        ];
        let is_linearizable = verdict(&history) == Verdict::Linearizable;
        assert_eq!(is_linearizable, is_fine, "{first} {second}");
    }
}

#[test]
fn keys_are_checked_apart_and_the_failing_one_is_named() {
    let history = [
        done(Ask::Set('a', 1), 0, 1, 0),
        done(Ask::Set('b', 2), 0, 1, 0),
        done(Ask::Read('a'), 2, 3, 1),
        done(Ask::Read('b'), 2, 3, 1),
    ];
    assert!(matches!(
        verdict(&history),
        Verdict::NotLinearizable { part: 'b', .. }
    ));
}

#[test]
fn a_search_that_takes_too_long_says_so() {
    // Many concurrent appends, and a read that none of their orders explains.
    let mut history: Vec<_> = (1..=9)
        .map(|digit| done(Ask::Add('x', digit), 0, 100, 0))
        .collect();
    history.push(done(Ask::Read('x'), 101, 102, 999_999_999));
    let (part, spent) = ('x', Spent::Steps);
    assert_eq!(
        check(&Registers, &history, Bound::Steps(1_000)),
        Verdict::Undecided { part, spent }
    );
    // A part that certainly fails is reported even if another one is undecided.
    history.push(done(Ask::Read('y'), 0, 1, 5));
    assert!(matches!(
        check(&Registers, &history, Bound::Steps(1_000)),
        Verdict::NotLinearizable { part: 'y', .. }
    ));
}

#[test]
fn a_search_without_time_says_so_and_every_part_gets_its_share() {
    let concurrent = |name: char| (1..=9).map(move |digit| done(Ask::Add(name, digit), 0, 100, 0));
    let mut history: Vec<_> = concurrent('x').chain(concurrent('y')).collect();
    for name in ['x', 'y'] {
        history.push(done(Ask::Read(name), 101, 102, 999_999_999));
    }
    history.push(done(Ask::Read('z'), 0, 1, 0));
    // A clock that moves on by a millisecond with every look.
    let looks = Cell::new(0);
    let elapsed = || {
        looks.set(looks.get() + 1);
        Duration::from_millis(looks.get())
    };
    let limit = Duration::from_millis(30);
    let bound = Bound::Time {
        limit,
        elapsed: &elapsed,
    };
    let (part, spent) = ('y', Spent::Time);
    let verdict = check(&Registers, &history, bound);
    assert_eq!(verdict, Verdict::Undecided { part, spent });
    // The first part did not take what the second and the third may need.
    assert!((20..40).contains(&looks.get()), "{}", looks.get());
    let judged = judge(&Registers, &history, Bound::Steps(1_000)).unwrap();
    assert!(judged.is_undecided());
    let refused = std::panic::catch_unwind(|| {
        assert_linearizable(&Registers, &history, Bound::Steps(1_000));
    });
    assert!(refused.is_err(), "undecided is no pass");
}

#[test]
fn a_violation_is_told_with_what_fits_and_what_is_left() {
    let history = [
        done(Ask::Set('x', 1), 0, 1, 0),
        done(Ask::Read('y'), 0, 1, 0),
        done(Ask::Set('x', 2), 2, 3, 0),
        done(Ask::Read('x'), 4, 5, 1),
    ];
    let story = judge(&Registers, &history, Bound::Steps(1_000)).unwrap_err();
    let lines: Vec<_> = story.lines().collect();
    assert!(
        lines[0].starts_with("not linearizable: part 'x': 2 operations fit"),
        "{story}"
    );
    assert!(
        lines[1].contains("0 fits") && lines[2].contains("2 fits"),
        "{story}"
    );
    assert!(lines[3].contains("3 left") && lines.len() == 4, "{story}");
}

#[test]
fn unanswered_writes_do_not_make_a_long_history_slow() {
    // 300 writes that nobody ever heard of, and one at the end that somebody saw after all.
    let mut history = Vec::new();
    for number in 0..300 {
        let at = 10 * number;
        history.push(call(Ask::Set('x', 1_000 + number), at, None));
        history.push(done(Ask::Set('x', number), at + 1, at + 2, 0));
        history.push(done(Ask::Read('x'), at + 3, at + 4, number));
    }
    history.push(done(Ask::Read('x'), 5_000, 5_001, 1_007));
    history.push(done(Ask::Read('x'), 5_002, 5_003, 1_299));
    let verdict = check(&Registers, &history, Bound::Steps(200_000));
    assert_eq!(verdict, Verdict::Linearizable);
}

/// Tries every order of every choice of unanswered operations.
fn brute_force(history: &[Operation<Ask, u64>], used: &mut Vec<usize>, state: u64) -> bool {
    let is_open = |at: &usize| !used.contains(at);
    let open: Vec<usize> = (0..history.len()).filter(is_open).collect();
    if open.iter().all(|at| history[*at].answered.is_none()) {
        return true;
    }
    open.iter().any(|&at| {
        let overtakes = open.iter().any(|other| {
            let answered = history[*other].answered.as_ref();
            answered.is_some_and(|(end, _)| *end < history[at].called)
        });
        let output = history[at].answered.as_ref().map(|(_, output)| output);
        let Some(next) = Registers.step(&state, &history[at].input, output) else {
            return false;
        };
        if overtakes {
            return false;
        }
        used.push(at);
        let found = brute_force(history, used, next);
        used.pop();
        found
    })
}

#[test]
fn random_histories_get_the_same_verdict_as_from_trying_every_order() {
    let mut random = Random::stream(11, Stream::Scenario);
    let mut fine = 0;
    for round in 0..4000 {
        let count = random.between(1, 6);
        let answered_per_mille = if round % 2 == 0 { 800 } else { 400 };
        let history: Vec<_> = (0..count)
            .map(|_| {
                let input = match random.below(3) {
                    0 => Ask::Set('x', random.below(3)),
                    1 => Ask::Add('x', random.below(3)),
                    _ => Ask::Read('x'),
                };
                let from = random.below(8);
                let answer = (from + random.below(6), random.below(4));
                call(
                    input,
                    from,
                    random.per_mille(answered_per_mille).then_some(answer),
                )
            })
            .collect();
        let expected = brute_force(&history, &mut Vec::new(), 0);
        fine += usize::from(expected);
        let found = verdict(&history) == Verdict::Linearizable;
        assert_eq!(found, expected, "{history:?}");
    }
    assert!(
        (500..3500).contains(&fine),
        "both verdicts occur often: {fine}"
    );
}
