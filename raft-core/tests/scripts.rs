//! Runs the golden scripts in `tests/scripts`: each states the property that its recorded output
//! shows, and the invariants are checked after every step apart from that text.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p raft-core --test scripts` records the output anew.

mod support;

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;

use bytes::Bytes;
use goldenscript::{Argument, Command, Context};
use raft_core::{Config, IndexRange, MembershipChange, ReadId, SnapshotContent};
use raft_proto::{
    AppendRequest, Entry, EntryKind, HardState, Heartbeat, InstallSnapshotRequest, LogIndex,
    LogPosition, Message, NodeId, Promotion, SnapshotDescription, Term, TimeoutNow,
};
use support::{Cluster, Envelope, story};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// One script's cluster; messages wait in `network` until the script delivers or drops them.
#[derive(Default)]
struct Script {
    cluster: Option<Cluster>,
    story: Vec<String>,
    next_read: u64,
}

/// Arguments of a command: `key=value` pairs taken by name, the rest in order.
struct Args<'a> {
    rest: VecDeque<&'a str>,
    keys: Vec<(&'a str, &'a str)>,
}

impl<'a> Args<'a> {
    fn of(command: &'a Command) -> Self {
        let mut args = Self {
            rest: VecDeque::new(),
            keys: Vec::new(),
        };
        for arg in &command.args {
            match arg {
                Argument::Positional(value) => args.rest.push_back(value),
                Argument::KeyValue(key, value) => args.keys.push((key, value)),
                other => panic!("an argument of a new kind: {other:?}"),
            }
        }
        args
    }

    fn key(&mut self, name: &str) -> Option<&'a str> {
        let at = self.keys.iter().position(|(key, _)| *key == name)?;
        Some(self.keys.remove(at).1)
    }

    fn number(&mut self, name: &str, default: u64) -> Outcome<u64> {
        Ok(match self.key(name) {
            Some(value) => value.parse()?,
            None => default,
        })
    }

    fn node(&mut self) -> Outcome<NodeId> {
        let id = self.rest.pop_front().ok_or("which node?")?;
        Ok(NodeId(id.parse()?))
    }

    fn done(self) -> Outcome<()> {
        match (self.rest.is_empty(), self.keys.is_empty()) {
            (true, true) => Ok(()),
            _ => Err(format!("unexpected arguments {:?} {:?}", self.rest, self.keys).into()),
        }
    }
}

impl Script {
    fn cluster(&mut self) -> Outcome<&mut Cluster> {
        self.cluster.as_mut().ok_or_else(|| "no cluster yet".into())
    }

    fn dispatch(&mut self, name: &str, mut args: Args<'_>) -> Outcome<()> {
        match name {
            "cluster" => self.start(&mut args)?,
            "log" => self.set_log(&mut args)?,
            "pass" => self.pass(&mut args)?,
            "timeout" => self.time_out(&mut args)?,
            "elect" => self.elect(&mut args)?,
            "deliver" => self.deliver(&mut args)?,
            "drop" => self.discard(&mut args)?,
            "duplicate" => self.duplicate(&mut args)?,
            "persist" => self.persist(&mut args)?,
            "settle" => self.settle()?,
            "run" => self.run_on(&mut args)?,
            "propose" => self.propose(&mut args)?,
            "read" => self.read(&mut args)?,
            "transfer" => self.transfer(&mut args)?,
            "crash" => self.crash(&mut args)?,
            "restart" => self.restart(&mut args)?,
            "append" => self.append(&mut args)?,
            "heartbeat" => self.heartbeat(&mut args)?,
            "down" => self.connection(&mut args, false)?,
            "up" => self.connection(&mut args, true)?,
            "disk" => self.disk(&mut args)?,
            "unsent" => self.unsent(&mut args)?,
            "hold" => self.hold(&mut args)?,
            "fill" => self.fill(&mut args)?,
            "status" => self.status()?,
            "logs" => self.logs()?,
            "network" => self.show_network()?,
            "peers" => self.peers(&mut args)?,
            "member" => self.member(&mut args)?,
            "members" => self.members()?,
            "snapshot" => self.snapshot(&mut args)?,
            "compact" => self.compact(&mut args)?,
            "offer" => self.offer(&mut args)?,
            "fetch" => self.fetch(&mut args)?,
            "fetch_failed" => self.fetch_failed(&mut args)?,
            "wipe" => self.wipe(&mut args)?,
            "uncount" => self.uncount(&mut args)?,
            "rot" => self.rot(&mut args)?,
            "lose" => self.lose(&mut args)?,
            "lose_snapshot" => self.lose_snapshot(&mut args)?,
            "timeout_now" => self.timeout_now(&mut args)?,
            _ => return Err(format!("unknown command {name}").into()),
        }
        args.done()
    }

    /// `cluster 3 window=1 append_bytes=10 uncommitted_bytes=20`
    fn start(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let size: u64 = args.rest.pop_front().ok_or("how many nodes?")?.parse()?;
        let window = args.number("window", 256)?;
        let append_bytes = args.number("append_bytes", 1 << 20)?;
        let window_bytes = args.number("window_bytes", 1 << 20)?;
        let uncommitted_bytes = args.number("uncommitted_bytes", 1 << 20)?;
        let entry_bytes = args.number("entry_bytes", 10_000.min(uncommitted_bytes))?;
        let reads = args.number("reads", 100)?;
        let spares = args.number("spares", 0)?;
        let configure = |config: &mut Config| {
            config.max_inflight_messages = window as usize;
            config.max_append_bytes = append_bytes;
            config.max_inflight_bytes = window_bytes;
            config.max_uncommitted_bytes = uncommitted_bytes;
            config.max_entry_bytes = entry_bytes as u32;
            config.max_pending_reads = reads as usize;
        };
        let mut cluster = Cluster::new(size, configure);
        for id in size + 1..=size + spares {
            cluster.add_spare(id, configure);
        }
        self.cluster = Some(cluster);
        Ok(())
    }

    /// `log 1 1 1 4 4 term=4`: the node starts with entries of these terms, from index 2 on
    /// (index 1 is the membership of term 1).
    fn set_log(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let mut entries = Vec::new();
        for (at, term) in args.rest.drain(..).enumerate() {
            let index = LogIndex(at as u64 + 2);
            entries.push(command_entry(index, Term(term.parse()?), ""));
        }
        let last = entries.last().map_or(1, |entry| entry.term.0);
        let term = Term(args.number("term", last)?);
        let cluster = self.cluster()?;
        let node = cluster.node(id.0);
        node.disk.entries.truncate(1);
        node.disk.entries.extend(entries);
        node.disk.hard_state = HardState { term, vote: None };
        cluster.invariants.node_wiped(id);
        cluster.restart(id.0);
        Ok(())
    }

    /// `pass 150`: time passes, and no timer fires.
    fn pass(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let ms: u64 = args.rest.pop_front().ok_or("how long?")?.parse()?;
        let cluster = self.cluster()?;
        cluster.now = cluster.now.plus_ms(ms);
        Ok(())
    }

    /// `timeout 1`: the node's next timer fires, time passing as needed.
    fn time_out(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        self.cluster()?.campaign(id.0);
        self.gather()
    }

    /// `elect 1`: the node becomes leader, with everything delivered and not told.
    fn elect(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let cluster = self.cluster()?;
        let patience_ms = cluster.node(id.0).core.config().election_timeout_ms_min;
        cluster.now = cluster.now.plus_ms(patience_ms);
        cluster.campaign(id.0);
        self.settle()?;
        let name = story::name(self.cluster()?.node(id.0));
        self.story.clear();
        self.story.push(format!("{name} leads"));
        Ok(())
    }

    /// `deliver`, `deliver 2`, `deliver from=1 2 count=1`: waiting messages arrive, in order.
    fn deliver(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        for envelope in self.take_messages(args)? {
            self.cluster()?.deliver(&envelope);
            self.gather()?;
        }
        Ok(())
    }

    fn discard(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        for envelope in self.take_messages(args)? {
            let line = story::message(&envelope.message);
            self.story
                .push(format!("{} ✗ {} {line}", envelope.from, envelope.to));
        }
        Ok(())
    }

    /// Messages arrive and stay on their way, to arrive again.
    fn duplicate(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        for envelope in self.take_messages(args)? {
            self.cluster()?.network.push(envelope.clone());
            self.cluster()?.deliver(&envelope);
            self.gather()?;
        }
        Ok(())
    }

    fn take_messages(&mut self, args: &mut Args<'_>) -> Outcome<Vec<Envelope>> {
        let to: Vec<u64> = args
            .rest
            .drain(..)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let from = args.key("from").map(str::parse::<u64>).transpose()?;
        let kind = args.key("type");
        let skip = args.number("skip", 0)?;
        let count = args.number("count", u64::MAX)?;
        let cluster = self.cluster()?;
        let mut seen = 0;
        let mut taken = Vec::new();
        cluster.network.retain(|envelope| {
            let is_meant = (to.is_empty() || to.contains(&envelope.to.0))
                && from.is_none_or(|from| envelope.from.0 == from)
                && kind.is_none_or(|kind| {
                    story::message(&envelope.message).split(' ').next() == Some(kind)
                });
            if !is_meant {
                return true;
            }
            seen += 1;
            if seen <= skip || taken.len() as u64 == count {
                return true;
            }
            taken.push(envelope.clone());
            false
        });
        Ok(taken)
    }

    /// `persist 2 count=1`: writes become durable, oldest first.
    fn persist(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let count = args.number("count", u64::MAX)?;
        let mut ids: Vec<NodeId> = Vec::new();
        for id in args.rest.drain(..) {
            ids.push(NodeId(id.parse()?));
        }
        if ids.is_empty() {
            ids = self.cluster()?.nodes.keys().copied().collect();
        }
        for id in ids {
            for _ in 0..count {
                let Some(write) = self.cluster()?.persist_one(id) else {
                    break;
                };
                self.story.push(format!("{id} has #{write} durable"));
                self.gather()?;
            }
        }
        Ok(())
    }

    /// Everything waiting happens, until nothing is left.
    fn settle(&mut self) -> Outcome<()> {
        self.gather()?;
        for _ in 0..10_000 {
            let cluster = self.cluster()?;
            if !cluster.network.is_empty() {
                let envelope = cluster.network.remove(0);
                cluster.deliver(&envelope);
                self.gather()?;
                continue;
            }
            let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
            let mut progressed = false;
            for id in ids {
                if let Some(write) = self.cluster()?.persist_one(id) {
                    self.story.push(format!("{id} has #{write} durable"));
                    self.gather()?;
                    progressed = true;
                }
            }
            if !progressed {
                return Ok(());
            }
        }
        Err("the cluster does not come to rest".into())
    }

    /// `run 1000`: time passes, timers fire and everything is delivered; told by its
    /// outcomes and end state.
    fn run_on(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let ms: u64 = args.rest.pop_front().ok_or("how long?")?.parse()?;
        let cluster = self.cluster()?;
        cluster.settle();
        cluster.run_for(ms);
        for node in cluster.nodes.values_mut() {
            node.story.retain(|line| {
                let outcomes = [
                    " proposals ",
                    " read ",
                    " transfer ",
                    " accuses ",
                    " misses ",
                    " again",
                    " drops ",
                    " covered ",
                    " gives up",
                    " refill ",
                ];
                outcomes.iter().any(|outcome| line.contains(outcome))
            });
        }
        self.gather()?;
        self.status()
    }

    fn propose(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let payloads: Vec<&str> = args.rest.drain(..).collect();
        let cluster = self.cluster()?;
        let now = cluster.now;
        let mut lines = Vec::new();
        for payload in payloads {
            match cluster.node(id.0).propose(now, payload) {
                Ok(index) => lines.push(format!("{id} takes {payload} as {index}")),
                Err(error) => lines.push(format!("{id} refuses {payload}: {error}")),
            }
        }
        self.story.extend(lines);
        self.cluster()?.collect(id);
        self.gather()
    }

    fn read(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        self.next_read += 1;
        let read = ReadId(self.next_read);
        let cluster = self.cluster()?;
        let now = cluster.now;
        let outcome = cluster.node(id.0).core.read_index(now, read);
        self.story.push(match outcome {
            Ok(()) => format!("{id} is asked for read {read}"),
            Err(error) => format!("{id} refuses read {read}: {error}"),
        });
        self.cluster()?.collect(id);
        self.gather()
    }

    fn transfer(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let (id, to) = (args.node()?, args.node()?);
        let cluster = self.cluster()?;
        let now = cluster.now;
        if let Err(error) = cluster.node(id.0).core.transfer_leadership(now, to) {
            self.story
                .push(format!("{id} refuses a transfer to {to}: {error}"));
        }
        self.cluster()?.collect(id);
        self.gather()
    }

    /// `crash 2 kept=1`: what is not durable is lost, but for so many writes under way.
    fn crash(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let kept = args.number("kept", 0)?;
        self.cluster()?.node(id.0).crash(kept as usize);
        Ok(())
    }

    fn restart(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        self.cluster()?.restart(id.0);
        self.gather()
    }

    /// `append 1 2 term=1 sequence=1 base=1@1 commit=0 2@1 3@1`: a request that the script makes
    /// up, from node 1 to node 2, arrives.
    fn append(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let (from, to) = (args.node()?, args.node()?);
        let request = AppendRequest {
            term: Term(args.number("term", 1)?),
            sequence: args.number("sequence", 1)?,
            previous: position(args.key("base").ok_or("after which entry?")?)?,
            commit_index: LogIndex(args.number("commit", 0)?),
            entries: args
                .rest
                .drain(..)
                .map(|at| position(at).map(|at| command_entry(at.index, at.term, "")))
                .collect::<Outcome<_>>()?,
        };
        self.inject(from, to, request.into())
    }

    /// `heartbeat 1 2 term=1 round=1 commit=0`
    fn heartbeat(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let (from, to) = (args.node()?, args.node()?);
        let heartbeat = Heartbeat {
            term: Term(args.number("term", 1)?),
            round: args.number("round", 1)?,
            commit_index: LogIndex(args.number("commit", 0)?),
        };
        self.inject(from, to, heartbeat.into())
    }

    /// `timeout_now 1 2 term=1`
    fn timeout_now(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let (from, to) = (args.node()?, args.node()?);
        let term = Term(args.number("term", 1)?);
        self.inject(from, to, TimeoutNow { term }.into())
    }

    /// `member 1 learn=4 promote=5 remove=2 demote=3`: node 1 is asked for one change that does
    /// all of it. `learn_auto=4` adds a learner that is promoted by itself.
    fn member(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let mut changes = Vec::new();
        for (key, value) in args.keys.drain(..) {
            let node: u64 = value.parse()?;
            let (node, member) = support::member(node);
            let add = |promotion| MembershipChange::AddLearner {
                id: node,
                member: member.clone(),
                promotion,
            };
            changes.push(match key {
                "learn" => add(Promotion::Manual),
                "learn_auto" => add(Promotion::Auto),
                "promote" => MembershipChange::Promote(node),
                "demote" => MembershipChange::Demote(node),
                "remove" => MembershipChange::Remove(node),
                other => return Err(format!("unknown change {other}").into()),
            });
        }
        let cluster = self.cluster()?;
        let now = cluster.now;
        let proposed = cluster.node(id.0).core.propose_membership(now, &changes);
        self.story.push(match proposed {
            Ok(position) => format!("{id} takes the change as {}", position.index),
            Err(error) => format!("{id} refuses the change: {error}"),
        });
        self.cluster()?.collect(id);
        self.gather()
    }

    /// The membership in force at each node.
    fn members(&mut self) -> Outcome<()> {
        let list = |ids: Vec<NodeId>| {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            ids.join(" ")
        };
        let mut lines = Vec::new();
        for (id, node) in &self.cluster()?.nodes {
            let membership = node.core.membership();
            let mut line = format!(
                "{id} voters {}",
                list(membership.voters.iter().copied().collect())
            );
            if membership.is_joint() {
                line += &format!(
                    " and {}",
                    list(membership.outgoing.iter().copied().collect())
                );
            }
            if !membership.learners.is_empty() {
                line += &format!(
                    " learners {}",
                    list(membership.learners.keys().copied().collect())
                );
            }
            lines.push(line);
        }
        self.story.extend(lines);
        Ok(())
    }

    /// `snapshot 1`: node 1 takes a snapshot of what it has applied.
    fn snapshot(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let cluster = self.cluster()?;
        let now = cluster.now;
        let position = cluster.node(id.0).take_snapshot(now);
        let position = position.ok_or("nothing is applied")?;
        self.story
            .push(format!("{id} has a snapshot of {position}"));
        Ok(())
    }

    /// `compact 1 3`: node 1 forgets its entries up to 3.
    fn compact(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let through: u64 = args.rest.pop_front().ok_or("up to where?")?.parse()?;
        let cluster = self.cluster()?;
        let now = cluster.now;
        cluster.node(id.0).compact(now, through);
        cluster.collect(id);
        self.gather()
    }

    /// `offer 1 2 4@2 term=2 sequence=1`: an offer that the script makes up arrives.
    fn offer(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let (from, to) = (args.node()?, args.node()?);
        let last_included = position(args.rest.pop_front().ok_or("up to where?")?)?;
        let request = InstallSnapshotRequest {
            term: Term(args.number("term", 1)?),
            sequence: args.number("sequence", 1)?,
            snapshot: SnapshotDescription {
                last_included,
                membership: support::membership_of(&[1, 2, 3]),
                total_bytes: 1,
                checksum: 0,
            },
        };
        self.inject(from, to, request.into())
    }

    /// `fetch 2`: the snapshot that node 2 was offered has arrived.
    fn fetch(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let fetched = self.cluster()?.fetch(id).ok_or("nothing is offered")?;
        self.story
            .push(format!("{id} has fetched snapshot {fetched}"));
        self.gather()
    }

    fn fetch_failed(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let cluster = self.cluster()?;
        let now = cluster.now;
        cluster.node(id.0).offered = None;
        cluster.node(id.0).core.handle_snapshot_failed(now);
        cluster.collect(id);
        self.gather()
    }

    /// `wipe 3`: the node starts with an empty log, as one that is about to join.
    fn wipe(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let cluster = self.cluster()?;
        cluster.wipe(id.0);
        self.gather()
    }

    /// `uncount 2`: the node restarts and does not know the end of its log (D6).
    fn uncount(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let cluster = self.cluster()?;
        let now = cluster.now;
        cluster.node(id.0).restart_uncounted(now);
        cluster.invariants.node_restarted(id);
        self.gather()
    }

    /// `rot 2 4 5`: the content of these durable entries is lost; if the node runs, it finds out.
    fn rot(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let first: u64 = args.rest.pop_front().ok_or("which entry?")?.parse()?;
        let last = args.rest.pop_front().map(str::parse).transpose()?;
        let range = IndexRange::new(LogIndex(first), LogIndex(last.unwrap_or(first)));
        let cluster = self.cluster()?;
        let now = cluster.now;
        cluster.node(id.0).rot(now, range.ok_or("an empty range")?);
        if cluster.node(id.0).is_up {
            cluster.collect(id);
        }
        self.gather()
    }

    /// `lose 2 from=4 term=1`: a node that is down has lost the end of its log and its newest hard
    /// state, and finds out when it starts.
    fn lose(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let cluster = self.cluster()?;
        let node = cluster.node(id.0);
        let had = node.disk.entries.clone();
        let from = LogIndex(args.number("from", had.len() as u64 + 1)?);
        let term = Term(args.number("term", node.disk.hard_state.term.0)?);
        node.lose_end(from, HardState { term, vote: None });
        cluster.invariants.node_lost_its_end(id, had);
        Ok(())
    }

    /// `lose_snapshot 2`: the snapshot of a node that is down has rotted, and the log before its
    /// end is compacted.
    fn lose_snapshot(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let disk = &mut self.cluster()?.node(id.0).disk;
        let snapshot = disk.snapshot.as_ref().ok_or("it has none")?;
        disk.first_index = snapshot.last_included.index.0 + 1;
        disk.snapshot_content = SnapshotContent::Lost;
        Ok(())
    }

    fn inject(&mut self, from: NodeId, to: NodeId, message: Message) -> Outcome<()> {
        let envelope = Envelope {
            from,
            to,
            uncounted: false,
            message,
        };
        let line = story::message(&envelope.message);
        self.story.push(format!("{from} → {to} {line}"));
        let cluster = self.cluster()?;
        cluster.invariants.injected(&envelope);
        cluster.deliver(&envelope);
        self.gather()
    }

    /// `down 1 2`: node 1 loses, or gets, its connection to node 2.
    fn connection(&mut self, args: &mut Args<'_>, is_up: bool) -> Outcome<()> {
        let (id, peer) = (args.node()?, args.node()?);
        let cluster = self.cluster()?;
        let now = cluster.now;
        let boots = cluster.node(peer.0).boots;
        let core = &mut cluster.node(id.0).core;
        match is_up {
            true => core.handle_peer_up(now, peer, support::boot(boots)),
            false => core.handle_peer_down(now, peer),
        }
        cluster.collect(id);
        self.gather()
    }

    /// `disk 1 stalled|full|failed`
    fn disk(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let state = args.rest.pop_front().ok_or("which state?")?;
        let cluster = self.cluster()?;
        let now = cluster.now;
        let core = &mut cluster.node(id.0).core;
        match state {
            "stalled" => core.handle_disk_stalled(now),
            "full" => core.handle_disk_full(now),
            "failed" => core.handle_disk_failed(now),
            other => return Err(format!("unknown disk state {other}").into()),
        }
        cluster.collect(id);
        self.gather()
    }

    /// `hold 1`: the driver of node 1 does not fill appends from now on.
    fn hold(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        self.cluster()?.node(id.0).held = Some(Vec::new());
        Ok(())
    }

    /// `fill 1`: it fills what waits, from its buffer, and from now on at once.
    fn fill(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        self.cluster()?.fill(id);
        self.gather()
    }

    /// `unsent 1 2 sequence=1`: the driver of node 1 could not send an append to node 2.
    fn unsent(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let (id, peer) = (args.node()?, args.node()?);
        let sequence = args.number("sequence", 1)?;
        let cluster = self.cluster()?;
        let now = cluster.now;
        let reason = raft_core::UnsentReason::Dropped;
        let core = &mut cluster.node(id.0).core;
        core.handle_unsent(now, peer, sequence, reason);
        cluster.network.retain(|envelope| {
            let is_it =
                matches!(&envelope.message, Message::AppendRequest(m) if m.sequence == sequence);
            !(is_it && envelope.from == id && envelope.to == peer)
        });
        cluster.collect(id);
        self.gather()
    }

    fn status(&mut self) -> Outcome<()> {
        let mut lines = Vec::new();
        for node in self.cluster()?.nodes.values() {
            let core = &node.core;
            let state = match node.is_up {
                true => format!("{:?}", core.role()).to_lowercase(),
                false => "down".to_owned(),
            };
            let leader = core.leader().map_or("-".to_owned(), |id| id.to_string());
            let missing: Vec<String> = core.missing().map(story::range).collect();
            let mut damage = match missing.is_empty() || !node.is_up {
                true => String::new(),
                false => format!(" misses {}", missing.join(" ")),
            };
            if core.is_uncounted() && node.is_up {
                damage += " uncounted";
            }
            lines.push(format!(
                "{} {state} leader={leader} last={} durable={} commit={} applied={}{damage}",
                story::name(node),
                core.last_position(),
                core.durable_index(),
                core.commit_index(),
                core.applied_index(),
            ));
        }
        self.story.extend(lines);
        Ok(())
    }

    fn logs(&mut self) -> Outcome<()> {
        let mut lines = Vec::new();
        for (id, node) in &self.cluster()?.nodes {
            let terms: Vec<String> = node.log.iter().map(|e| e.term.0.to_string()).collect();
            lines.push(format!("{id} terms {}", terms.join(" ")));
        }
        self.story.extend(lines);
        Ok(())
    }

    fn show_network(&mut self) -> Outcome<()> {
        let lines: Vec<String> = self
            .cluster()?
            .network
            .iter()
            .map(|e| format!("{} → {} {}", e.from, e.to, story::message(&e.message)))
            .collect();
        self.story.extend(lines);
        Ok(())
    }

    fn peers(&mut self, args: &mut Args<'_>) -> Outcome<()> {
        let id = args.node()?;
        let cluster = self.cluster()?;
        let lines: Vec<String> = cluster
            .node(id.0)
            .core
            .peers()
            .map(|p| {
                format!(
                    "{} {:?} match={} next={} inflight={} {:?}",
                    p.id,
                    p.replication,
                    p.match_index,
                    p.next_index,
                    p.inflight_messages,
                    p.counting
                )
            })
            .collect();
        self.story.extend(lines);
        Ok(())
    }

    /// Adds what the nodes did to the story, and the messages that they sent.
    fn gather(&mut self) -> Outcome<()> {
        let cluster = self.cluster()?;
        let mut lines = Vec::new();
        for node in cluster.nodes.values_mut() {
            lines.append(&mut node.story);
        }
        self.story.extend(lines);
        Ok(())
    }
}

fn position(text: &str) -> Outcome<LogPosition> {
    let (index, term) = text.split_once('@').ok_or("a position is index@term")?;
    Ok(LogPosition {
        index: LogIndex(index.parse()?),
        term: Term(term.parse()?),
    })
}

fn command_entry(index: LogIndex, term: Term, payload: &str) -> Entry {
    Entry {
        index,
        term,
        kind: EntryKind::Command,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Outcome<String> {
        self.dispatch(&command.name, Args::of(command))?;
        let lines = std::mem::take(&mut self.story);
        Ok(lines.join("\n"))
    }
}

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths = Vec::new();
    for area in std::fs::read_dir(&folder).expect("the scripts are there") {
        let area = area.expect("a readable folder").path();
        for script in std::fs::read_dir(area).expect("a folder per area") {
            paths.push(script.expect("a readable script").path());
        }
    }
    paths.sort();
    assert!(paths.len() >= 30, "only {} scripts found", paths.len());
    let mut failed = Vec::new();
    for path in paths {
        let run = || goldenscript::run(&mut Script::default(), &path);
        match std::panic::catch_unwind(run) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{}: {error}", path.display())),
            Err(_) => failed.push(format!("{}: see above", path.display())),
        }
    }
    assert!(failed.is_empty(), "failed scripts:\n{}", failed.join("\n"));
}
