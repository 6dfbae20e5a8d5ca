//! Seeds: worlds with random faults, run one after the other, and what becomes of those that fail.
//!
//! A seed gives a [`Plan`]: a world and a list of faults, drawn before anything happens. [`run`]
//! plays it under a [`Workload`], first with trouble and every invariant checked after every event,
//! then in liveness mode. A plan that fails is made smaller by [`shrink`].

mod fault;
mod fault_kind;
mod good_copies;
mod healing;
mod lasting_partition;
mod liveness;
mod operator;
mod plan;
mod runner;
mod shrink;
mod workload;

pub use self::fault::{Fault, Target};
pub use self::fault_kind::FaultKind;
pub(crate) use self::operator::{Task, Tasks};

pub use self::plan::{Ending, Plan, TROUBLE_MS, World};
pub use self::runner::{Failure, Report, WorkloadFactory, run};
pub use self::shrink::{Shrunk, shrink};
pub use self::workload::{Judgement, Workload};
