//! What a simulated world is like: sizes, latencies, loss, clocks.

use raft_core::Config;
use raft_log::LogOptions;
use raft_node::driver::DriverLimits;
use raft_proto::NodeId;

use crate::random::Random;
use crate::trace::TraceDepth;

/// A duration drawn anew each time, every value as likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Shortest, in microseconds.
    pub us_min: u64,
    /// Longest, in microseconds.
    pub us_max: u64,
}

impl Latency {
    /// Always the same, in microseconds.
    #[must_use]
    pub const fn fixed_us(us: u64) -> Self {
        Self {
            us_min: us,
            us_max: us,
        }
    }

    /// From `min` to `max` microseconds.
    #[must_use]
    pub const fn us(min: u64, max: u64) -> Self {
        Self {
            us_min: min,
            us_max: max,
        }
    }

    /// From `min` to `max` milliseconds.
    #[must_use]
    pub const fn ms(min: u64, max: u64) -> Self {
        Self::us(min * 1000, max * 1000)
    }

    /// Nanoseconds, drawn with the precision of one.
    pub(crate) fn draw_ns(self, random: &mut Random) -> u64 {
        random.between(self.us_min * 1000, self.us_max * 1000)
    }
}

/// Whether messages may overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryOrder {
    /// Messages of one class (control, append, bulk) arrive in the order sent, as on one stream of
    /// a connection; classes overtake each other.
    PerClass,
    /// Every message travels by itself.
    None,
}

/// Some answers come very late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateReplies {
    /// How many, in thousandths of all answers.
    pub per_mille: u64,
    /// How late, in addition to the latency of the link.
    pub latency: Latency,
}

/// Messages that arrive again, long after they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replays {
    /// How many, in thousandths of all messages.
    pub per_mille: u64,
    /// How late, in addition to the latency of the link.
    pub latency: Latency,
}

/// How much a link carries, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of control and append messages in a millisecond.
    pub bytes_per_ms: u64,
    /// Bytes of bulk messages in a millisecond; they have a connection of their own.
    pub bulk_bytes_per_ms: u64,
    /// Bytes that wait at most; what is sent beyond them is lost.
    pub queue_bytes: u64,
}

/// Whether a message can outlive the processes that it was sent between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// It travels on a connection between two processes, as with QUIC: it reaches no later life of
    /// its receiver, and a later life of its sender ends the connection.
    #[default]
    Connections,
    /// It reaches whatever process its receiver runs by then, also after a later life of its sender
    /// was heard of: the core must not depend on connections.
    Datagrams,
}

/// What a link does to messages; one direction between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkOptions {
    /// Time on the way.
    pub latency: Latency,
    /// Requests lost, in thousandths.
    pub request_loss_per_mille: u64,
    /// Answers lost, in thousandths.
    pub reply_loss_per_mille: u64,
    /// Answers that come very late, if any.
    pub late_replies: Option<LateReplies>,
    /// Whether messages may overtake each other.
    pub order: DeliveryOrder,
    /// Messages that arrive twice, in thousandths.
    pub duplicates_per_mille: u64,
    /// Messages that arrive again much later, if any.
    pub replays: Option<Replays>,
    /// How much it carries; `None` is without limit.
    pub capacity: Option<Capacity>,
}

impl LinkOptions {
    /// A healthy local network: 0.1 to 0.5 ms, nothing is lost.
    #[must_use]
    pub const fn reliable() -> Self {
        Self {
            latency: Latency::us(100, 500),
            request_loss_per_mille: 0,
            reply_loss_per_mille: 0,
            late_replies: None,
            order: DeliveryOrder::PerClass,
            duplicates_per_mille: 0,
            replays: None,
            capacity: None,
        }
    }

    /// The unreliable network of MIT 6.824: up to 27 ms on the way, a tenth of the requests and a
    /// tenth of the answers lost, and no order.
    #[must_use]
    pub const fn unreliable() -> Self {
        Self {
            latency: Latency::ms(1, 27),
            request_loss_per_mille: 100,
            reply_loss_per_mille: 100,
            late_replies: None,
            order: DeliveryOrder::None,
            duplicates_per_mille: 0,
            replays: None,
            capacity: None,
        }
    }

    /// The same with the long reordering of MIT 6.824: two thirds of the answers come 200 to
    /// 2400 ms late.
    #[must_use]
    pub const fn with_long_reordering(mut self) -> Self {
        self.late_replies = Some(LateReplies {
            per_mille: 667,
            latency: Latency::ms(200, 2400),
        });
        self.order = DeliveryOrder::None;
        self
    }
}

/// How long things take inside a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessOptions {
    /// From the first input that waits until the node has handled all that wait by then.
    pub step: Latency,
    /// To apply a batch.
    pub apply: Latency,
    /// One write and its fsync; all that waits goes into one.
    pub sync: Latency,
    /// One read of the log.
    pub log_read: Latency,
    /// One job on snapshot files.
    pub snapshot: Latency,
    /// To restore the state machine from a snapshot.
    pub restore: Latency,
    /// Until an idle log says that its last batch is synced.
    pub vouch_ms: u64,
}

impl Default for ProcessOptions {
    fn default() -> Self {
        Self {
            step: Latency::us(5, 20),
            apply: Latency::us(5, 20),
            sync: Latency::us(80, 400),
            log_read: Latency::us(50, 200),
            snapshot: Latency::us(50, 1_000),
            restore: Latency::us(50, 1_000),
            vouch_ms: 10,
        }
    }
}

/// How many disks may be damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Damage {
    /// So few that a good copy of everything committed stays.
    #[default]
    WithinAtlas,
    /// Any: then nodes must stop and say so, and what they acknowledged is never silently gone.
    BeyondAtlas,
}

/// How often the use of a disk damages it, in thousandths. Only so many disks are damaged as
/// [`ClusterOptions::damage`] allows; the rates are those of each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageRates {
    /// Reads of the log or a snapshot after which a sector is another one.
    pub reads_rot_per_mille: u64,
    /// Writes after which a sector is another one.
    pub writes_rot_per_mille: u64,
    /// Writes of which a block lands on another one.
    pub writes_stray_per_mille: u64,
}

impl StorageRates {
    /// Disks that take no harm.
    pub(crate) const NONE: Self = Self {
        reads_rot_per_mille: 0,
        writes_rot_per_mille: 0,
        writes_stray_per_mille: 0,
    };
}

/// How clocks of nodes differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOptions {
    /// Each boot of a node runs fast or slow by up to this many millionths (at most 500,000).
    pub drift_ppm_max: u64,
}

/// Everything about a world but the state machine.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Number of nodes, which get the ids from 1 on; all are voters.
    pub nodes: u64,
    /// Further nodes, with the ids that follow, that exist but are no members: they can join.
    pub spares: u64,
    /// Everything random follows from it.
    pub seed: u64,
    /// All links between nodes, to begin with.
    pub links: LinkOptions,
    /// All links between clients and nodes, to begin with.
    pub client_links: LinkOptions,
    /// What messages between nodes travel on.
    pub transport: Transport,
    /// How many disks may be damaged.
    pub damage: Damage,
    /// How often they are damaged by their use.
    pub storage: StorageRates,
    /// So many nodes, those of the lowest ids, begin with the oldest version of the protocol.
    pub old_versions: u64,
    /// Latencies inside a node.
    pub process: ProcessOptions,
    /// Clocks.
    pub clock: ClockOptions,
    /// To begin a connection, after nodes have become able to reach each other.
    pub connect: Latency,
    /// Until a node notices that it cannot reach a peer any more, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Consensus options of every node; id and seed are replaced.
    pub core: Config,
    /// Limits of every node's driver.
    pub limits: DriverLimits,
    /// Log options of every node.
    pub log: LogOptions,
    /// How much of the trace is kept.
    pub trace: TraceDepth,
}

impl ClusterOptions {
    /// A healthy cluster of this many nodes.
    #[must_use]
    pub fn new(nodes: u64) -> Self {
        Self {
            nodes,
            spares: 0,
            seed: 0,
            links: LinkOptions::reliable(),
            client_links: LinkOptions::reliable(),
            transport: Transport::Connections,
            damage: Damage::WithinAtlas,
            storage: StorageRates::NONE,
            old_versions: 0,
            process: ProcessOptions::default(),
            clock: ClockOptions::default(),
            connect: Latency::us(500, 2000),
            idle_timeout_ms: 1_500,
            core: Config::new(NodeId(1)),
            limits: DriverLimits::default(),
            log: LogOptions {
                segment_bytes: 256 << 10,
                max_batch_bytes: 80 << 10,
                max_entry_bytes: 80 << 10,
                preparation: raft_log::Preparation::Inline,
                on_damage: raft_log::OnDamage::Refuse,
            },
            trace: TraceDepth::Latest(200),
        }
    }

    /// The same with another seed.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same with other links, between nodes and to clients.
    #[must_use]
    pub const fn links(mut self, links: LinkOptions) -> Self {
        self.links = links;
        self.client_links = links;
        self
    }
}
