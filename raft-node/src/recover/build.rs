//! The new directory, made whole beside what it will replace.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::SnapshotContent;
use raft_log::vfs::Vfs;
use raft_log::{
    DataDir, Log, LogIdentity, LogOptions, LogReader, LogWrite, OnDamage, SnapshotStore,
};
use raft_proto::{
    ClusterId, Entry, EntryKind, GroupId, HardState, Incarnation, LogPosition, Member, Membership,
    SnapshotDescription,
};

use super::swap::build_name;
use super::{RecoverError, RecoverPlan, Survey, open_directory};
use crate::error::FatalError;
use crate::formation::{FORMATION_RECORD, FormedResponder};
use crate::restore;
use crate::startup::{self, Opened};

/// Payload bytes of entries, or bytes of a snapshot, copied at a time.
const COPY_BYTES: usize = 4 << 20;

/// The directory of a survivor, open and locked.
pub(super) struct Source {
    directory: DataDir,
    cluster: ClusterId,
    opened: Opened,
}

/// What was made.
pub(super) struct Made {
    pub(super) cluster: ClusterId,
    pub(super) address: String,
}

/// Who the new cluster is.
struct Newborn {
    identity: LogIdentity,
    membership: Membership,
    /// The encoded membership: the payload of every entry that brings one.
    first_entry: Bytes,
}

/// A node that starts on a damaged log gets back from its peers what is lost. A survivor has none, and
/// a new cluster must not be made of what happens to be left.
fn refuse_damage(
    directory: &DataDir,
    cluster: ClusterId,
    options: LogOptions,
) -> Result<(), FatalError> {
    let identity = LogIdentity {
        cluster,
        node: directory.node(),
        incarnation: directory.incarnation(),
        group: GroupId(0),
    };
    let options = LogOptions {
        on_damage: OnDamage::Refuse,
        ..options
    };
    let opened = Log::open(directory, identity, options);
    opened.map_err(|error| FatalError::OpenLog(Arc::new(error)))?;
    Ok(())
}

impl Source {
    pub(super) fn open(
        vfs: &Arc<dyn Vfs>,
        path: &Path,
        options: LogOptions,
    ) -> Result<Self, RecoverError> {
        let no_member = || RecoverError::NoMember(path.to_path_buf());
        // Looked at before it is opened, because opening makes what is not there.
        let found = DataDir::peek(vfs.as_ref(), path)?;
        let (node, _) = found.ok_or_else(no_member)?;
        let directory = open_directory(vfs, path, node)?;
        restore::check_finished(&directory)?;
        let record = directory.read_record(FORMATION_RECORD)?;
        let responder = record.as_deref().map(FormedResponder::from_record);
        let responder = responder.transpose()?.flatten().ok_or_else(no_member)?;
        let cluster = responder.cluster();
        let source = |error| RecoverError::Source(Box::new(error));
        refuse_damage(&directory, cluster, options).map_err(source)?;
        let opened = startup::open(&directory, cluster, options).map_err(source)?;
        if opened.recovered.last == LogPosition::ZERO {
            return Err(no_member());
        }
        if let (SnapshotContent::Lost, Some(mark)) =
            (opened.recovered.snapshot_content, opened.recovered.snapshot)
        {
            return Err(source(FatalError::MissingSnapshot { mark, newest: None }));
        }
        Ok(Self {
            directory,
            cluster,
            opened,
        })
    }

    pub(super) fn survey(&self) -> Survey {
        let recovered = &self.opened.recovered;
        let membership = recovered.memberships.last();
        Survey {
            node: self.directory.node(),
            cluster: self.cluster,
            last: recovered.last,
            term: recovered.hard_state.term,
            snapshot: self.newest().map(|newest| newest.last_included),
            membership: membership
                .map(|(_, membership)| membership.clone())
                .unwrap_or_default(),
        }
    }

    /// Lets go of log and snapshots, so that their files can be moved; the lock stays.
    pub(super) fn into_directory(self) -> DataDir {
        self.directory
    }

    /// Makes the new directory inside the old one. A crash leaves files that nobody looks at.
    pub(super) fn build(
        &self,
        vfs: &Arc<dyn Vfs>,
        plan: &RecoverPlan,
    ) -> Result<Made, RecoverError> {
        let address = self.address(plan)?;
        let newborn = self.newborn(vfs.as_ref(), &address)?;
        let LogIdentity {
            cluster,
            node,
            incarnation,
            ..
        } = newborn.identity;
        let record = FormedResponder::record_of(newborn.first_entry.clone())?;
        let path = plan.directory.join(build_name(cluster));
        let begun = restore::begun();
        let directory = DataDir::create(Arc::clone(vfs), &path, (node, incarnation), begun)?;
        directory.bind_cluster(cluster)?;
        if let Some(newest) = self.newest() {
            self.copy_snapshot(&directory, &newborn, newest)?;
        }
        self.copy_log(&directory, &newborn, plan.log)?;
        directory.write_record(FORMATION_RECORD, &record)?;
        restore::finish(&directory)?;
        Ok(Made { cluster, address })
    }

    fn newest(&self) -> Option<&SnapshotDescription> {
        self.opened.newest.as_ref()
    }

    fn address(&self, plan: &RecoverPlan) -> Result<String, RecoverError> {
        if let Some(address) = &plan.address {
            return Ok(address.clone());
        }
        let node = self.directory.node();
        let survey = self.survey();
        let member = survey.membership.members.get(&node);
        let member = member.ok_or(RecoverError::NoAddress(node))?;
        Ok(member.address.clone())
    }

    fn newborn(&self, vfs: &dyn Vfs, address: &str) -> Result<Newborn, RecoverError> {
        let node = self.directory.node();
        let drawn = vfs.random();
        let incarnation = Incarnation(drawn.map_err(|source| {
            RecoverError::Directory(raft_log::DirError::Io {
                action: "draw random numbers for",
                path: self.directory.path().to_path_buf(),
                source,
            })
        })?);
        let member = Member {
            incarnation: Some(incarnation),
            address: address.to_owned(),
        };
        let membership = Membership::of_voters([(node, member)]);
        let first_entry = membership.to_bytes()?;
        let identity = LogIdentity {
            cluster: ClusterId::of_first_entry(&first_entry),
            node,
            incarnation,
            group: GroupId(0),
        };
        Ok(Newborn {
            identity,
            membership,
            first_entry,
        })
    }

    fn copy_snapshot(
        &self,
        directory: &DataDir,
        newborn: &Newborn,
        newest: &SnapshotDescription,
    ) -> Result<(), RecoverError> {
        let mut payload = self.opened.snapshots.payload(newest.last_included)?;
        let store = SnapshotStore::open(directory, newborn.identity)?;
        let mut writer = store.create(newest.last_included, &newborn.membership)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = payload.read(&mut buffer).map_err(RecoverError::Payload)?;
            if count == 0 {
                break;
            }
            writer.write(&buffer[..count])?;
        }
        writer.finish()?;
        Ok(())
    }

    /// A log that goes on behind the newest snapshot with every entry that the old one has there.
    fn copy_log(
        &self,
        directory: &DataDir,
        newborn: &Newborn,
        options: LogOptions,
    ) -> Result<(), RecoverError> {
        let recovered = &self.opened.recovered;
        let (mut log, _) = Log::open(directory, newborn.identity, options)?;
        let covered = self
            .newest()
            .map_or(LogPosition::ZERO, |newest| newest.last_included);
        if covered != LogPosition::ZERO {
            log.compact_prefix(covered)?;
        }
        let reader = self.opened.log.reader();
        let mut hard_state = Some(HardState {
            term: recovered.hard_state.term,
            vote: None,
        });
        let mut copied = covered;
        while copied != recovered.last || hard_state.is_some() {
            let entries = self.read_after(&reader, copied, newborn)?;
            copied = entries.last().map_or(copied, Entry::position);
            log.stage(LogWrite {
                hard_state: hard_state.take(),
                entries,
                ..LogWrite::default()
            })?;
            log.sync()?;
        }
        Ok(())
    }

    /// The next entries, with the new membership in the place of every other.
    fn read_after(
        &self,
        reader: &LogReader,
        after: LogPosition,
        newborn: &Newborn,
    ) -> Result<Vec<Entry>, RecoverError> {
        let (first, last) = (after.index.next(), self.opened.recovered.last.index);
        let entries = reader.read(first, last, COPY_BYTES as u64)?;
        let renamed = entries.into_iter().map(|entry| match entry.kind {
            EntryKind::Membership => Entry {
                payload: newborn.first_entry.clone(),
                ..entry
            },
            EntryKind::Noop | EntryKind::Command => entry,
        });
        Ok(renamed.collect())
    }
}
