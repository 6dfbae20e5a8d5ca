//! Every history of a small cluster within small bounds; larger ones with `cargo xtask exhaustive`.

use raft_sim::exhaustive::{Bounds, Disks, Report, explore};

fn holds(bounds: &Bounds) -> Report {
    let report = explore(bounds);
    if let Some(violation) = &report.violation {
        panic!("{bounds:?}\n{violation}");
    }
    assert!(report.is_complete, "{bounds:?} {report:?}");
    report
}

#[test]
fn three_terms_without_faults() {
    let report = holds(&Bounds {
        timeouts: 5,
        ..Bounds::small()
    });
    assert!(report.longest_commit >= 5, "{report:?}");
}

#[test]
fn every_single_loss_duplication_or_delay() {
    let report = holds(&Bounds {
        timeouts: 3,
        deviations: 1,
        ..Bounds::small()
    });
    assert!(
        report.truncations > 0 && report.two_leaders > 0,
        "{report:?}"
    );
}

#[test]
fn a_crash_at_any_moment_between_messages() {
    let report = holds(&Bounds {
        timeouts: 4,
        crashes: 1,
        ..Bounds::small()
    });
    assert!(report.longest_commit >= 4, "{report:?}");
}

#[test]
fn a_change_of_the_membership_with_a_node_cut_off() {
    let report = holds(&Bounds {
        timeouts: 3,
        proposals: 1,
        changes: 1,
        cuts: 1,
        ..Bounds::small()
    });
    assert!(report.joint > 0, "{report:?}");
}

#[test]
fn a_disk_that_forgets_is_found_out() {
    let report = explore(&Bounds {
        timeouts: 5,
        proposals: 1,
        crashes: 2,
        disks: Disks::Forgetful,
        ..Bounds::small()
    });
    let violation = report.violation.expect("two disks lost what was committed");
    assert!(
        violation.property.contains("leader completeness"),
        "{violation}"
    );
    assert!(
        violation
            .actions
            .iter()
            .any(|line| line.contains("crashes"))
    );
}
