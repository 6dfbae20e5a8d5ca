//! What clients do in a simulated cluster: the example of `raft-sim`, or the service itself.

use raft_sim::campaign::{Plan, Workload};

/// Makes the workload of a plan.
pub(crate) type Factory = fn(&Plan) -> Box<dyn Workload>;

/// A workload by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// raft-kv's state machine, sessions and client
    #[default]
    Kv,
    /// The example of raft-sim: registers that are swapped and read
    Registers,
}

impl Kind {
    /// What makes it. Only the optimised build of this program has raft-kv, so that its other
    /// chores do not have to wait for a build of everything.
    ///
    /// # Errors
    /// This build does not have it.
    pub(crate) fn factory(self) -> Result<Factory, String> {
        match self {
            Self::Registers => Ok(raft_sim::registers::Registers::boxed),
            #[cfg(feature = "kv")]
            Self::Kv => Ok(raft_kv::simulation::KvWorkload::boxed),
            #[cfg(not(feature = "kv"))]
            Self::Kv => Err("this build has no raft-kv; start it by `cargo xtask sim`".to_string()),
        }
    }

    /// Its name, as given on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::Registers => "registers",
        }
    }
}
